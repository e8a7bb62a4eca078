"""What both transports have in common: proxy, CA bundle, and errors for failures between this machine and the server.

``requests`` and ``httpx`` interpret ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` differently. Both
clients follow ``requests``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from importlib.util import find_spec
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from airflow_provider_sim.client.api.http import Request, error_of
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConfigurationError,
    SimConnectionError,
    SimError,
    SimTimeoutError,
)

E = TypeVar("E", bound=BaseException)

Reason = Literal["unreachable", "timed out", "broken"]
"""``unreachable``: DNS, connection, proxy or TLS handshake failed, so that the request was not sent. ``broken``: the
connection broke after the request was sent."""

_TLS_WORDS = ("certificate", "ssl", "tls", "handshake")
_CERTIFICATE_ADVICE = (
    "This machine doesn't trust the server's certificate, or it is another host's: set the connection's extra 'verify'"
    " to the path of your CA bundle, or correct its base URL (host)"
)
_TLS_ADVICE = (
    "If the server uses plain http at this port, start the connection's base URL (host) with http://; otherwise set the"
    " port at which it uses https"
)

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}


def origin(url: str) -> str:
    """Return the server of a URL, without path and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def proxy_for(url: str, *, socks_package: str) -> str | None:
    """Return the URL of a server's proxy; None to connect directly. ``socks_package``: the module needed for SOCKS."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = None if _is_excluded_address(url) else select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme = proxy.partition("://")[0].lower()
    try:
        is_url = urlsplit(proxy).hostname and urlsplit(proxy).port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise SimConfigurationError(f"The proxy for {url} is not a URL such as http://proxy.example.com:3128.")
    if scheme not in _PROXY_SCHEMES:
        raise SimConfigurationError(
            f"The proxy for {url} has the scheme {scheme!r}; it can be {', '.join(_PROXY_SCHEMES)}."
        )
    if scheme.startswith("socks") and find_spec(socks_package) is None:
        raise SimConfigurationError(
            f"The {scheme} proxy for {url} requires a package that is not installed. Install it with:"
            " pip install 'requests[socks]' 'httpx[socks]'."
        )
    return proxy


def ca_bundle(verify: bool | str) -> bool | str:
    """Return the path of the CA bundle to verify servers with; True for the default bundle, False for none."""
    if verify is False:
        return False
    if isinstance(verify, str):
        name, path = "The connection's extra 'verify'", verify
    else:
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
        name = next((name for name in names if os.environ.get(name)), "")
        if not name:
            return True
        path, name = os.environ[name], f"The environment variable {name}"
    if not os.path.exists(path):
        raise SimConfigurationError(f"{name} names the CA bundle {path!r}, which doesn't exist.")
    return path


def _is_excluded_address(url: str) -> bool:
    """Whether ``NO_PROXY`` names the server by its IP address with a port, or by an IPv6 network.

    ``requests`` compares addresses to IPv4 networks and to addresses without a port only.
    """
    parts = urlsplit(url)
    try:
        address: Any = ipaddress.ip_address((parts.hostname or "").partition("%")[0])
    except ValueError:
        return False
    port = parts.port or _PORTS.get(parts.scheme)
    for entry in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(","):
        name = entry.strip()
        for network in (name, name.removesuffix(f":{port}")):
            with contextlib.suppress(ValueError):  # a host name, or another port
                if address in ipaddress.ip_network(network.strip("[]"), strict=False):
                    return True
    return False


def error_for(reason: Reason, request: Request, base_url: str, timeout: float, cause: BaseException) -> SimError:
    """Return the error for a request without a whole response."""
    why = innermost_reason(cause)
    if reason == "timed out":
        what = "it did not finish" if request.stream_started else f"no response from {base_url}"
        advice = "Sim may be overloaded; the connection's extra 'timeout' sets how long to wait"
        if request.sync:
            long_runs = "use async_execution=True or deferrable=True for long runs, or a longer timeout"
            advice = f"Disconnecting cancels a sync run; {long_runs}"
        return error_of(SimTimeoutError, request, None, f"{what} within {timeout:g} s. {advice}")
    if reason == "broken" or request.stream_started:
        what = f"the connection to {base_url} broke before the whole response arrived ({why})"
        return error_of(SimConnectionError, request, None, what)
    unsent: dict[str, Any] = {"outcome": Outcome.NEVER_SENT}
    if any(word in why.lower() for word in _TLS_WORDS):
        advice = _CERTIFICATE_ADVICE if "certificate" in why.lower() else _TLS_ADVICE
        what = f"no secure connection to {base_url} ({why}). {advice}"
        return error_of(SimConnectionError, request, None, what, code="TLS_ERROR", max_retries=0, **unsent)
    what = (
        f"{base_url} can't be reached ({why}). Check the connection's base URL (host), the network and proxy of this"
        " machine, and whether Sim is running"
    )
    return error_of(SimConnectionError, request, None, what, **unsent)


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
