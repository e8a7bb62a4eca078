"""What can go wrong between us and the server, as the errors that both transports raise."""

from __future__ import annotations

from typing import TypeVar

from airflow_provider_sim.client.api.http import Request, error_of
from airflow_provider_sim.exceptions import Outcome, SimConnectionError, SimError, SimTimeoutError

E = TypeVar("E", bound=BaseException)

_TLS_SIGNS = ("certificate", "ssl", "tls", "handshake")


def unreachable(request: Request, base_url: str, cause: BaseException) -> SimError:
    """Nothing was sent: the name, the address, the proxy or the TLS handshake failed."""
    reason = innermost_reason(cause)
    if any(sign in reason.lower() for sign in _TLS_SIGNS):
        return error_of(
            SimConnectionError,
            request,
            None,
            f"no secure connection to {base_url} ({reason}). {_tls_advice(reason)}",
            code="TLS_ERROR",
            outcome=Outcome.NEVER_SENT,
            worth_repeating=0,
        )
    return error_of(
        SimConnectionError,
        request,
        None,
        f"{base_url} can't be reached ({reason}). Check the connection's base URL (host), the network and proxy of this"
        " machine, and whether Sim is running",
        outcome=Outcome.NEVER_SENT,
    )


def _tls_advice(reason: str) -> str:
    if "certificate" in reason.lower():
        return (
            "This machine doesn't trust the server's certificate, or it is another host's: set the connection's extra"
            " 'verify' to the path of your CA bundle, or correct its base URL (host)"
        )
    return (
        "If the server speaks plain http at this port, begin the connection's base URL (host) with http://;"
        " otherwise name the port at which it speaks https"
    )


def timed_out(request: Request, base_url: str, timeout: float) -> SimError:
    """No answer came in time."""
    if request.held_open:
        advice = (
            "Hanging up cancels a run that Sim holds open; use async_execution=True or deferrable=True for long runs,"
            " or a longer timeout"
        )
    else:
        advice = "Sim may be overloaded; the connection's extra 'timeout' sets how long to wait"
    what = (
        f"it did not end within {timeout:g} s" if request.begun else f"no answer from {base_url} within {timeout:g} s"
    )
    return error_of(SimTimeoutError, request, None, f"{what}. {advice}")


def broken(request: Request, base_url: str, cause: BaseException) -> SimError:
    """The connection broke after the request was sent, before the whole answer was there."""
    return error_of(
        SimConnectionError,
        request,
        None,
        f"the connection to {base_url} broke before the whole answer was there ({innermost_reason(cause)})",
    )


def without_frames(error: E) -> E:
    """An HTTP library's error, and those below it, without the frames that they came through.

    Their local variables hold the request with its key, and whoever reports crashes may report local variables.
    """
    below: list[BaseException | None] = [error]
    while below:
        one = below.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            below += [one.__cause__, one.__context__]
    return error


def innermost_reason(cause: BaseException) -> str:
    """The first cause in a chain of exceptions, without the memory addresses and request dumps of the outer ones."""
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
    words = " ".join(part for part in cause.args if isinstance(part, str))
    words = words or {"IncompleteRead": "it was closed too early"}.get(type(cause).__name__, type(cause).__name__)
    return words.split(">: ")[-1][:300]
