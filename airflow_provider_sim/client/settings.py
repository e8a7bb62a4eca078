"""Settings of a client, checked before anything is sent, and the URLs of its server's web pages.

On normal deployments, these pages have the API's origin.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.exceptions import SimConfigurationError

DEFAULT_BASE_URL = "https://www.sim.ai"  # https://sim.ai only redirects to it
DEFAULT_TIMEOUT = 30.0  # seconds, for requests that are answered at once
API_VERSIONS = ("auto", "v2", "legacy")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Settings of both clients: the arguments of :class:`~.base.BaseClient`, and the connection.

    :param connection: ID of the Airflow connection that the settings come from; errors name it.
    :param workspace_id: the connection's workspace, the default of methods that list what is in one.
    :raises SimConfigurationError: a setting is invalid.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    api_version: str = "auto"
    timeout: float = DEFAULT_TIMEOUT
    verify: bool | str = True
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    connection: str | None = None
    workspace_id: str | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "api_key", _checked_api_key(self.api_key))
            object.__setattr__(self, "base_url", _checked_base_url(self.base_url, self.api_key))
            if self.api_version not in API_VERSIONS:
                raise ValueError(f"has the api_version {self.api_version!r}; it can be {', '.join(API_VERSIONS)}")
            if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
                raise ValueError(f"has the timeout {self.timeout!r}; it must be a number of seconds above 0")
            if not isinstance(verify := self.verify, bool | str) or verify == "":
                raise ValueError(f"has the setting verify {verify!r}; it can be true, false or the path of a CA bundle")
        except ValueError as error:
            subject = "The Sim connection" if self.connection is None else f"Connection {self.connection!r}"
            raise SimConfigurationError(f"{subject} {error}.") from None

    @property
    def rate_limited_as(self) -> str:
        """Hash of base URL and key, for which Sim counts requests; doesn't expose the key."""
        return hashlib.sha256(repr((self.base_url, self.api_key)).encode()).hexdigest()[:32]


def _checked_api_key(api_key: Any) -> str:
    """Return the key without surrounding whitespace; reject one that HTTP libraries would quote in their errors."""
    key = api_key.strip() if isinstance(api_key, str) else ""
    if not key:
        raise ValueError("has no API key. Set the password field or SIM_API_KEY")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            "has an API key with a line break, a space or another character that no key contains. Enter the key again"
        )
    return key


def _checked_base_url(base_url: Any, api_key: str) -> str:
    if not isinstance(base_url, str):
        raise ValueError(f"has the base URL {base_url!r}, which is not a string")
    advice = f"Set the host field to a URL such as {DEFAULT_BASE_URL} or http://sim.internal:3000/prefix"
    # A key, or a name and password, that went into the wrong field.
    shown = repr(re.sub("//[^/]*@", "//***@", base_url.replace(api_key, "***")))
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"has the base URL {shown}, whose host or port is invalid. {advice}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"has a user name or password in the base URL. {advice}, and the password field to the API key"
        )
    if parts.scheme not in ("http", "https") or not host or any(sign.isspace() for sign in base_url.strip()):
        raise ValueError(f"has the base URL {shown}, which is not an http or https URL. {advice}")
    if parts.query or parts.fragment:
        raise ValueError(f"has the base URL {shown} with a query or fragment. {advice}")
    if api_key in base_url:
        raise ValueError(f"has the API key in the base URL (host). {advice}")
    return base_url.strip().rstrip("/")


def run_url(base_url: str, workflow_id: str, run_id: str, workspace_id: str | None) -> str:
    """Return the URL of the run's log, valid from the run's start; without the workspace, of the workflow's editor."""
    if workspace_id is None:
        return workflow_url(base_url, workflow_id, None)
    return f"{base_url}/workspace/{quote(workspace_id, safe='')}/logs?{urlencode({'executionId': run_id})}"


def workflow_url(base_url: str, workflow_id: str, workspace_id: str | None) -> str:
    """Return the URL of the workflow's editor; without the workspace, of a page that redirects to it."""
    if workspace_id is None:
        return f"{base_url}/workspace?{urlencode({'redirect_workflow': workflow_id})}"
    return f"{base_url}/workspace/{quote(workspace_id, safe='')}/w/{quote(workflow_id, safe='')}"


def approval_url(base_url: str, workflow_id: str, run_id: str) -> str:
    """Return the URL on which a person answers a paused run."""
    return f"{base_url}/resume/{quote(workflow_id, safe='')}/{quote(run_id, safe='')}"
