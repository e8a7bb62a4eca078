"""Where a client talks to and how, checked before anything is sent."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.exceptions import Outcome, SimConfigurationError

DEFAULT_BASE_URL = "https://www.sim.ai"
"""``https://sim.ai`` only redirects to it."""

API_VERSIONS = ("auto", "v2", "legacy")

DEFAULT_TIMEOUT = 30.0
"""Seconds for requests that are answered at once."""

HELD_OPEN_TIMEOUT = 3600.0
"""Seconds for held-open executions: longer than any plan lets one run, since hanging up cancels it."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What both clients are made of.

    :param api_key: a personal or workspace key; shown nowhere.
    :param base_url: with scheme and any path prefix.
    :param api_version: ``v2``, ``legacy``, or ``auto`` to find out.
    :param timeout: seconds to wait for an answer; held-open executions have their own.
    :param verify: whether to verify TLS certificates, or the path of a CA bundle to do it with.
    :param retry: for requests that are safe to repeat.
    :raises SimConfigurationError: one of them can't work.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    api_version: str = "auto"
    timeout: float = DEFAULT_TIMEOUT
    verify: bool | str = True
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        """Normalise the base URL, and refuse what can't work."""
        _check_api_key(self.api_key)
        object.__setattr__(self, "base_url", _checked_base_url(self.base_url, self.api_key))
        if self.api_version not in API_VERSIONS:
            raise _wrong(f"api_version is {self.api_version!r}; it can be {', '.join(API_VERSIONS)}")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise _wrong(f"timeout is {self.timeout!r}; it must be a number of seconds above 0")
        if not isinstance(self.verify, bool | str) or self.verify == "":
            raise _wrong(f"verify is {self.verify!r}; it can be true, false or the path of a CA bundle")

    @property
    def account(self) -> str:
        """Hash of base URL, key, API version and TLS settings; doesn't expose the key."""
        return _hash(self.base_url, self.api_key, self.api_version, self.verify)

    @property
    def rate_limited_as(self) -> str:
        """Hash of base URL and key, for which Sim counts requests; doesn't expose the key."""
        return _hash(self.base_url, self.api_key)

    def with_api_key(self, api_key: str) -> ClientSettings:
        """The same settings with another key."""
        return replace(self, api_key=api_key)

    def with_base_url(self, base_url: str) -> ClientSettings:
        """The same settings for another server."""
        return replace(self, base_url=base_url)


def _hash(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:32]


def _check_api_key(api_key: Any) -> None:
    """Refuse keys that can't be put into a header, which HTTP libraries would quote in their errors."""
    if not isinstance(api_key, str) or not api_key:
        raise _wrong("there is no API key; put one into the connection's API key (password), or set SIM_API_KEY")
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise _wrong(
            "the API key holds a line break, a space or another character that no key has;"
            " enter it again without what was copied around it"
        )


def _checked_base_url(base_url: Any, api_key: str) -> str:
    if not isinstance(base_url, str):
        raise _wrong(f"the base URL is {base_url!r}, not text")
    advice = f"give it as in {DEFAULT_BASE_URL} or http://sim.internal:3000/prefix"
    # A key, or a name and password, that went into the wrong field.
    shown = repr(re.sub("//[^/]*@", "//***@", base_url.replace(api_key, "***")))
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _wrong(f"the base URL {shown} can't be read: its host or port is wrong; {advice}") from None
    if parts.username is not None or parts.password is not None:
        raise _wrong(
            f"the base URL holds a user name or password; {advice}, and put the API key into the password field"
        )
    if parts.scheme not in ("http", "https") or not host or any(sign.isspace() for sign in base_url.strip()):
        raise _wrong(f"the base URL {shown} is no http or https address; {advice}")
    if parts.query or parts.fragment:
        raise _wrong(f"the base URL {shown} holds a query or fragment; {advice}")
    if api_key in base_url:
        raise _wrong(f"the API key stands in the base URL (host); {advice}")
    return base_url.strip().rstrip("/")


def _wrong(what: str) -> SimConfigurationError:
    return SimConfigurationError(f"The Sim connection can't work: {what}.", outcome=Outcome.NEVER_SENT)
