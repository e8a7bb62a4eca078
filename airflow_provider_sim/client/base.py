"""What the blocking and the asyncio client share: settings, the known rate limit, and how a question is put."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from airflow_provider_sim import __version__
from airflow_provider_sim.client.api.http import Request, Response, rate_limit_info
from airflow_provider_sim.client.flows import Flows, RequestStep
from airflow_provider_sim.client.models import RateLimit, RateLimitInfo, UsageLimits
from airflow_provider_sim.client.retry import Attempts, Delays, RetryPolicy
from airflow_provider_sim.client.settings import DEFAULT_BASE_URL, DEFAULT_TIMEOUT, SYNC_TIMEOUT, ClientSettings
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
    """A text that tells nothing where variables are shown, as in reports of crashes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


_ABOUT_THE_CONNECTION = (
    SimAuthenticationError,
    SimConfigurationError,
    SimConnectionError,
    SimPermissionError,
    SimRedirectError,
    SimResponseError,
    SimRouteMissingError,
    SimV2OffError,
)

SHORTEST_TIMEOUT = 1.0
"""Seconds to wait for an answer although the deadline has passed."""


class BaseClient:
    """A client without a transport.

    :param api_key: a personal or workspace key.
    :param base_url: with scheme and any path prefix.
    :param api_version: ``v2``, ``legacy``, or ``auto`` to find out.
    :param timeout: seconds to wait for an answer; held-open executions have their own.
    :param verify: whether to verify TLS certificates, or the path of a CA bundle to do it with.
    :param retry: for requests that are safe to repeat; an execution is repeated by ``execute_with_retry`` only.
    :ivar on_rate_limit: called with whatever an answer tells of a rate limit.
    :raises SimConfigurationError: one of them can't work.
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
        self._use(
            ClientSettings(
                api_key=api_key,
                base_url=base_url,
                api_version=api_version,
                timeout=timeout,
                verify=verify,
                retry=retry or RetryPolicy(),
            )
        )

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> Self:
        """Return a client with these settings."""
        client = cls(settings.api_key, settings.base_url)
        client._use(settings)
        return client

    def _use(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._talk = Flows(settings)

    @property
    def base_url(self) -> str:
        """The server, without a trailing slash."""
        return self._settings.base_url

    @property
    def speaks_v2(self) -> bool | None:
        """Whether the server turned out to speak v2; None before the first answer that tells."""
        return self._talk.speaks_v2

    @property
    def settings(self) -> ClientSettings:
        """What the client is made of, for another of the same server and key."""
        return self._settings

    @property
    def takes_run_ids(self) -> bool:
        """Whether the server is known to take the caller's run id, so that the same id starts no second run."""
        return self._talk.takes_run_ids

    @property
    def start_bucket(self) -> str | None:
        """The rate bucket that starting a run spends; None where no requests are metered."""
        return self._talk.start_bucket

    def limit_of_starts(self, usage: UsageLimits) -> RateLimit | None:
        """What a usage report says of the executions that asynchronous starts spend."""
        return self._talk.limit_of_starts(usage)

    def check_input(self, workflow_id: str, input: Any) -> None:
        """Refuse an input that can't be sent; sends nothing.

        :raises SimInputError: it isn't JSON, is too large, or has fields that the server's API keeps to itself.
        """
        self._talk.check_input(workflow_id, input)

    def set_api_key(self, api_key: str) -> None:
        """Use another key from now on."""
        self._use(self._settings.with_api_key(api_key))

    def set_base_url(self, base_url: str) -> None:
        """Talk to another server from now on."""
        self._use(self._settings.with_base_url(base_url))

    def get_rate_limit_info(self) -> RateLimitInfo | None:
        """What the last answer that told any said of its rate limit; None before."""
        return self._rate_limit

    def __repr__(self) -> str:
        """Name the server, not the key."""
        return f"{type(self).__name__}({self.base_url!r}, api_version={self._settings.api_version!r})"

    def _attempts(self, question: RequestStep, delays: Delays) -> Attempts[Any]:
        return Attempts(
            question.call,
            question.retry or self._settings.retry,
            question.new_run_id,
            before_attempt=question.before_attempt,
            patient_with=question.patient_with,
            deadline=question.deadline,
            delays=question.delays or delays,
        )

    def _headers(self, request: Request) -> dict[str, str]:
        """A request's headers with the key, and with who we are."""
        return {
            "Accept": "application/json",
            "User-Agent": f"airflow-provider-sim/{__version__}",
            **request.headers,
            "X-API-Key": _Hidden(self._settings.api_key),
        }

    def _timeouts(self, request: Request, question: RequestStep) -> tuple[float, float]:
        """Seconds to wait for a connection and for the answer."""
        wait = question.timeout or (SYNC_TIMEOUT if request.held_open else self._settings.timeout)
        if request.held_open and question.deadline is not None:
            wait = min(wait, max(SHORTEST_TIMEOUT, question.deadline - time.time()))
        return min(wait, self._settings.timeout), wait

    def _note_rate_limit(self, request: Request, response: Response) -> None:
        told = rate_limit_info(response, bucket=request.bucket)
        if told is None:
            return
        self._rate_limit = told
        if self.on_rate_limit is not None:
            self.on_rate_limit(told)

    def _naming_connection(self, error: SimError) -> SimError:
        """Add the connection's ID to an error that a change of the connection may fix."""
        if self._settings.connection is not None and isinstance(error, _ABOUT_THE_CONNECTION):
            connection = f"connection {self._settings.connection!r}"
            message = str(error)
            message = f"{message[:-1]}, {connection}]" if message.endswith("]") else f"{message} [{connection}]"
            error.args = (message,)
        return error

    def _without_key(self, response: Response) -> Response:
        """An error answer as its words may be shown: proxies exist that throw the request's headers back."""
        key = self._settings.api_key.encode()
        if response.status < 400 or key not in response.body:
            return response
        return replace(response, body=response.body.replace(key, b"***"))

    @staticmethod
    def _is_event_stream(response: Response) -> bool:
        return response.status == 200 and "event-stream" in response.headers.get("content-type", "")
