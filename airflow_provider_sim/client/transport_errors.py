"""Errors for failures between this machine and the server, for both transports."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from airflow_provider_sim.client.api.http import Request, error_of
from airflow_provider_sim.exceptions import Outcome, SimConnectionError, SimError, SimTimeoutError

E = TypeVar("E", bound=BaseException)

Reason = Literal["unreachable", "timed out", "broken"]
"""``unreachable``: DNS, connection, proxy or TLS handshake failed, so that the request was not sent. ``broken``: the
connection broke after the request was sent."""

_TLS_WORDS = ("certificate", "ssl", "tls", "handshake")


def error_for(reason: Reason, request: Request, base_url: str, timeout: float, cause: BaseException) -> SimError:
    """Return the error for a request without a whole response."""
    why = innermost_reason(cause)
    if reason == "timed out":
        what = "it did not finish" if request.stream_started else f"no response from {base_url}"
        advice = (
            "Disconnecting cancels a sync run; use async_execution=True or deferrable=True for long runs, or a longer"
            " timeout"
            if request.sync
            else "Sim may be overloaded; the connection's extra 'timeout' sets how long to wait"
        )
        return error_of(SimTimeoutError, request, None, f"{what} within {timeout:g} s. {advice}")
    if reason == "broken" or request.stream_started:
        what = f"the connection to {base_url} broke before the whole response arrived ({why})"
        return error_of(SimConnectionError, request, None, what)
    unsent: dict[str, Any] = {"outcome": Outcome.NEVER_SENT}
    if any(word in why.lower() for word in _TLS_WORDS):
        what = f"no secure connection to {base_url} ({why}). {_tls_advice(why)}"
        return error_of(SimConnectionError, request, None, what, code="TLS_ERROR", max_retries=0, **unsent)
    what = (
        f"{base_url} can't be reached ({why}). Check the connection's base URL (host), the network and proxy of this"
        " machine, and whether Sim is running"
    )
    return error_of(SimConnectionError, request, None, what, **unsent)


def _tls_advice(reason: str) -> str:
    if "certificate" in reason.lower():
        return (
            "This machine doesn't trust the server's certificate, or it is another host's: set the connection's extra"
            " 'verify' to the path of your CA bundle, or correct its base URL (host)"
        )
    return (
        "If the server uses plain http at this port, start the connection's base URL (host) with http://; otherwise"
        " set the port at which it uses https"
    )


def without_frames(error: E) -> E:
    """Drop the tracebacks of an HTTP library's error and of its causes.

    The frames' local variables contain the request with its key, and crash reports may include local variables.
    """
    errors: list[BaseException | None] = [error]
    while errors:
        current = errors.pop()
        if current is not None and current.__traceback__ is not None:
            current.__traceback__ = None
            errors += [current.__cause__, current.__context__]
    return error


def innermost_reason(cause: BaseException) -> str:
    """Return the first cause in a chain of exceptions, without the memory addresses and request dumps of the others."""
    seen: set[int] = set()
    while id(cause) not in seen:
        seen.add(id(cause))
        reason = getattr(cause, "reason", None)
        inner = reason if isinstance(reason, BaseException) else cause.__cause__ or cause.__context__
        if inner is None and cause.args and isinstance(cause.args[0], BaseException):
            inner = cause.args[0]
        if inner is None:
            break
        cause = inner
    text = " ".join(part for part in cause.args if isinstance(part, str))
    text = text or {"IncompleteRead": "it was closed too early"}.get(type(cause).__name__, type(cause).__name__)
    return text.split(">: ")[-1][:300]
