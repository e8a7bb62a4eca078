"""Base of the sync and the asyncio client: settings, rate-limit information, and what their transports share."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from airflow_provider_sim import __version__
from airflow_provider_sim.client.api.http import Request, Response, rate_limit_info
from airflow_provider_sim.client.flows import Flows
from airflow_provider_sim.client.models import RateLimit, RateLimitInfo, UsageLimits
from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.client.settings import DEFAULT_BASE_URL, DEFAULT_TIMEOUT, SYNC_TIMEOUT, ClientSettings
from airflow_provider_sim.client.steps import StepOptions
from airflow_provider_sim.exceptions import (
    SimAuthenticationError,
    SimConfigurationError,
    SimConnectionError,
    SimError,
    SimPermissionError,
    SimRedirectError,
    SimResponseError,
    SimRouteMissingError,
    SimV2OffError,
)


class _Hidden(str):
    """A string that isn't shown where variables are, as in crash reports."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


_CONNECTION_ERRORS = (
    SimAuthenticationError,
    SimConfigurationError,
    SimConnectionError,
    SimPermissionError,
    SimRedirectError,
    SimResponseError,
    SimRouteMissingError,
    SimV2OffError,
)

MIN_TIMEOUT = 1.0
"""Seconds to wait for a response although the deadline has passed."""


class BaseClient:
    """A client without a transport.

    :param api_key: a personal or workspace key.
    :param base_url: with scheme and any path prefix.
    :param api_version: ``v2``, ``legacy``, or ``auto`` to detect it.
    :param timeout: seconds to wait for a response; sync executions have another timeout.
    :param verify: whether to verify TLS certificates, or the path of a CA bundle to verify them with.
    :param retry: for idempotent requests; only ``execute_with_retry`` retries an execution.
    :ivar on_rate_limit: called with the rate-limit information of each response that has some.
    :raises SimConfigurationError: an argument is invalid.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        api_version: str = "auto",
        timeout: float = DEFAULT_TIMEOUT,
        verify: bool | str = True,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._rate_limit: RateLimitInfo | None = None
        self.on_rate_limit: Callable[[RateLimitInfo], None] | None = None
        self._use(ClientSettings(api_key, base_url, api_version, timeout, verify, retry or RetryPolicy()))

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> Self:
        """Return a client with these settings."""
        client = cls(settings.api_key, settings.base_url)
        client._use(settings)
        return client

    def _use(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._flows = Flows(settings)

    @property
    def base_url(self) -> str:
        """The server, without a trailing slash."""
        return self._settings.base_url

    @property
    def speaks_v2(self) -> bool | None:
        """Whether requests go to the v2 API; None until known."""
        return self._flows.speaks_v2

    @property
    def settings(self) -> ClientSettings:
        """The client's settings, also for another client."""
        return self._settings

    @property
    def accepts_run_ids(self) -> bool:
        """Whether the server is known to accept the caller's run ID, so the same ID starts no second run."""
        return self._flows.accepts_run_ids

    @property
    def start_bucket(self) -> str | None:
        """The rate bucket that a start spends; None if the server meters no requests."""
        return self._flows.start_bucket

    def start_limit(self, usage: UsageLimits) -> RateLimit | None:
        """Return the execution limit that async starts spend."""
        return self._flows.start_limit(usage)

    def check_input(self, workflow_id: str, input: Any) -> None:
        """Reject an input that can't be sent; sends nothing.

        :raises SimInputError: it isn't JSON, is too large, or has fields that the API reserves.
        """
        self._flows.check_input(workflow_id, input)

    def set_api_key(self, api_key: str) -> None:
        """Use another key from now on."""
        self._use(replace(self._settings, api_key=api_key))

    def set_base_url(self, base_url: str) -> None:
        """Use another server from now on."""
        self._use(replace(self._settings, base_url=base_url))

    def get_rate_limit_info(self) -> RateLimitInfo | None:
        """Return the rate-limit information of the latest response that had some; None before."""
        return self._rate_limit

    def __repr__(self) -> str:
        """Name the server, not the key."""
        return f"{type(self).__name__}({self.base_url!r}, api_version={self._settings.api_version!r})"

    def _headers(self, request: Request) -> dict[str, str]:
        return {
            "Accept": "application/json",
            "User-Agent": f"airflow-provider-sim/{__version__}",
            **request.headers,
            "X-API-Key": _Hidden(self._settings.api_key),
        }

    def _timeouts(self, request: Request, options: StepOptions) -> tuple[float, float]:
        """Seconds to wait for a connection and for the response."""
        wait = options.timeout or (SYNC_TIMEOUT if request.sync else self._settings.timeout)
        if request.sync and options.deadline is not None:
            wait = min(wait, max(MIN_TIMEOUT, options.deadline - time.time()))
        return min(wait, self._settings.timeout), wait

    def _record_rate_limit(self, request: Request, response: Response) -> None:
        info = rate_limit_info(response, bucket=request.bucket)
        if info is None:
            return
        self._rate_limit = info
        if self.on_rate_limit is not None:
            self.on_rate_limit(info)

    def _for_flow(self, error: SimError) -> SimError:
        """Add the connection's ID to an error that a change of the connection may fix, and drop tenacity's frames."""
        if self._settings.connection is not None and isinstance(error, _CONNECTION_ERRORS):
            connection = f"connection {self._settings.connection!r}"
            message = str(error)
            message = f"{message[:-1]}, {connection}]" if message.endswith("]") else f"{message} [{connection}]"
            error.args = (message,)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_name != "_attempt":
            trace = trace.tb_next
        return error.with_traceback(trace)

    def _without_key(self, response: Response) -> Response:
        """Hide the key in an error response: some proxies return the request's headers."""
        key = self._settings.api_key.encode()
        if response.status < 400 or key not in response.body:
            return response
        return replace(response, body=response.body.replace(key, b"***"))

    @staticmethod
    def _is_event_stream(response: Response) -> bool:
        return response.status == 200 and "event-stream" in response.headers.get("content-type", "")


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without those that are None."""
    return {name: value for name, value in options.items() if value is not None}


def copy_metadata(client: str, method: Any, flow: Callable[..., Any]) -> None:
    """Give a client method the name, docstring and signature of its flow, with the result in place of the flow."""
    method.__name__, method.__doc__ = flow.__name__, flow.__doc__
    method.__qualname__ = f"{client}.{flow.__name__}"
    result = flow.__annotations__["return"].removeprefix("Flow[").removesuffix("]")
    method.__annotations__ = {**flow.__annotations__, "return": result}
    method.__signature__ = inspect.signature(flow).replace(return_annotation=result)
