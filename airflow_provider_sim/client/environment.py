"""Proxy and CA bundle of the environment, the same for both clients.

``requests`` and ``httpx`` interpret ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` differently. Both
clients follow ``requests``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sim.exceptions import SimConfigurationError

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, *, socks_package: str) -> str | None:
    """Return the URL of the proxy for a server; None to connect directly.

    :param socks_package: the module that the HTTP library needs for SOCKS.
    """
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
