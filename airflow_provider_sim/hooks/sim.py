"""Hook for Airflow connections of type ``sim``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_sim import client as sim_client
from airflow_provider_sim.exceptions import (
    Outcome,
    SimConfigurationError,
    SimConnectionError,
    SimError,
    SimResponseError,
    SimRouteMissingError,
    SimUnsupportedError,
    SimV2OffError,
)
from airflow_provider_sim.get_provider_info import CONNECTION_TYPE

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

_NUMBERS = ("timeout", "max_retries", "initial_delay", "max_delay", "backoff_multiplier")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_STANDARD_PORTS = {"http": 80, "https": 443}
_TEST_TIMEOUT = 10.0  # seconds; the connection test runs in the API server and must not block it


class SimHook(sim_client.SyncMethods, BaseHook, AbstractContextManager["SimHook"]):
    """Sim's API, for the server and the key of a connection.

    The connection's host is the base URL (default ``https://www.sim.ai``) and its password the API key; if they are
    empty, the environment variables ``SIM_BASE_URL`` and ``SIM_API_KEY`` of the worker are used. Its extras are
    ``workspace_id``, ``api_version`` (``auto``, ``v2``, ``legacy``), ``timeout`` (seconds), ``verify`` (true, false or
    the path of a CA bundle), ``max_retries``, ``initial_delay``, ``max_delay`` (seconds) and ``backoff_multiplier``.

    Use it in a ``with`` block, or call :meth:`close`, to close its HTTP session.

    :param sim_conn_id: ID of the connection.
    :param retry_args: retry settings that override the connection's: the fields of
        :class:`~airflow_provider_sim.client.retry.RetryPolicy`.
    :raises SimConfigurationError: by the first method that reads the connection, if it doesn't exist or is invalid.
    """

    conn_name_attr = "sim_conn_id"
    default_conn_name = "sim_default"
    conn_type = "sim"
    hook_name = "Sim"

    def __init__(self, sim_conn_id: str = default_conn_name, retry_args: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.sim_conn_id = sim_conn_id
        self.retry_args = dict(retry_args or {})
        self._conn: sim_client.SimClient | None = None
        self._client_settings: sim_client.ClientSettings | None = None
        self._workflows: dict[str, sim_client.Workflow | None] = {}

    def get_conn(self) -> sim_client.SimClient:
        """Return the hook's client; the same one until :meth:`close`."""
        if self._conn is None:
            self._conn = sim_client.SimClient.from_settings(self.get_settings())
        return self._conn

    _client = get_conn

    def new_client(self, *, timeout: float, retry: sim_client.RetryPolicy) -> sim_client.SimClient:
        """Return a separate client, for use while the hook's is performing a request; close it after use.

        :param timeout: seconds for a request, unless the connection's is less.
        """
        settings = self.get_settings()
        settings = replace(settings, timeout=min(timeout, settings.timeout), retry=retry)
        return sim_client.SimClient.from_settings(settings)

    def get_settings(self) -> sim_client.ClientSettings:
        """Return the settings of the hook's client."""
        if self._client_settings is None:
            with self._explain_errors():
                connection = self.get_connection(self.sim_conn_id)
            self._client_settings = self._settings(connection)
        return self._client_settings

    async def get_async_settings(self) -> sim_client.ClientSettings:
        """Return the settings of a client, for sharing one on an event loop."""
        from airflow.providers.common.compat.connection import get_async_connection

        with self._explain_errors():
            connection = await get_async_connection(self.sim_conn_id)
        return self._settings(connection)

    def get_rate_limit_info(self) -> sim_client.RateLimitInfo | None:
        """Return the rate-limit information of the latest response that had some; None before. Sends nothing."""
        return self.get_conn().get_rate_limit_info()

    def workspace_of(self, workflow_id: str, *, required: bool = False) -> str | None:
        """Return a workflow's workspace: the connection's, or as by :meth:`read_workflow`; None where unknown."""
        of_connection = self.get_settings().workspace_id
        if of_connection is None and (workflow := self.read_workflow(workflow_id, required=required)):
            return workflow.workspace_id
        return of_connection

    def read_workflow(self, workflow_id: str, *, required: bool = False) -> sim_client.Workflow | None:
        """Return a workflow's workspace and declared inputs, read once.

        :param required: retry by the connection's settings and raise; otherwise one request, and None if it fails.
        :raises SimError: it is required and can't be read. A server without such a route returns None.
        """
        if workflow_id not in self._workflows or (required and self._workflows[workflow_id] is None):
            client = self.get_conn() if required else self.get_conn().with_retry(sim_client.NO_RETRY)
            try:
                self._workflows[workflow_id] = client.get_workflow(workflow_id)
            except SimError as error:
                if required and not isinstance(error, SimUnsupportedError):
                    raise
                self._workflows[workflow_id] = None
        return self._workflows[workflow_id]

    def close(self) -> None:
        """Close the client's HTTP session."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def test_connection(self) -> tuple[bool, str]:
        """Test the connection by reading the account of the key.

        :returns: whether the connection works, and the server, workspaces and plan, or what to change.
        """
        try:
            settings = replace(self.get_settings(), connection=None, retry=sim_client.NO_RETRY)  # Airflow makes its ID
            settings = replace(settings, timeout=min(settings.timeout, _TEST_TIMEOUT))
            with sim_client.SimClient.from_settings(settings) as client:
                return True, _account_summary(client)
        except SimConfigurationError as error:
            return False, str(error).replace(f"Connection {self.sim_conn_id!r}", "The connection")
        except SimError as error:
            return False, f"{error} {_base_url_advice(error, settings.base_url)}".strip()

    def _invalid(self, what: str) -> SimConfigurationError:
        return SimConfigurationError(f"Connection {self.sim_conn_id!r} {what}.")

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn the errors of the secrets backend into ones that state what to do."""
        try:
            yield
        except Exception as error:
            raise self._invalid(
                f"doesn't exist or can't be read ({type(error).__name__}); its extra must be a JSON object. Add one of"
                f" type Sim in the UI, or with the command: airflow connections add {self.sim_conn_id} --conn-type sim"
                " --conn-host https://www.sim.ai --conn-password '<API key>'"
            ) from error

    def _settings(self, connection: Connection) -> sim_client.ClientSettings:
        """Return the settings of a connection of type Sim; the password of another type isn't meant for Sim."""
        if connection.conn_type not in (self.conn_type, "", None):
            raise self._invalid(
                f"is of type {connection.conn_type!r}, not 'sim'. Choose another sim_conn_id, or set the type to Sim"
            )
        extra = _parsed(connection.extra or "{}") or {}
        if not isinstance(extra, dict):
            raise self._invalid('has an extra that is not a JSON object, such as {"timeout": 60}')
        extra = {name: value for name, value in extra.items() if value not in (None, "")}  # as forms save unset fields
        verify = extra.get("verify", True)
        numbers = {name: _parsed(extra[name]) for name in _NUMBERS if name in extra}
        timeout = numbers.pop("timeout", sim_client.DEFAULT_TIMEOUT)
        try:
            base_url = _base_url(connection)
            retry = replace(sim_client.RetryPolicy(**numbers), **self.retry_args)
        except TypeError as error:
            raise SimConfigurationError(f"retry_args are not those of RetryPolicy: {error}.") from None
        except (ValueError, SimConfigurationError) as error:
            raise self._invalid(f"has an invalid setting: {str(error).rstrip('.')}") from None
        return sim_client.ClientSettings(
            api_key=self._api_key(connection),
            base_url=base_url or os.environ.get("SIM_BASE_URL") or sim_client.DEFAULT_BASE_URL,
            api_version=str(extra.get("api_version", "auto")),
            timeout=timeout,
            verify=_BOOLEANS.get(verify.strip().lower(), verify.strip()) if isinstance(verify, str) else verify,
            retry=retry,
            connection=self.sim_conn_id,
            workspace_id=str(extra["workspace_id"]) if "workspace_id" in extra else None,
        )

    def _api_key(self, connection: Connection) -> str:
        """Return the key of the connection or the environment, without surrounding whitespace."""
        key = (connection.password or "").strip()
        if key and key != connection.password:
            from airflow.providers.common.compat.sdk import mask_secret

            mask_secret(key)  # Airflow masks the password with the whitespace only
        if not key and connection.login:
            raise self._invalid(
                "has no API key in the password field, but a value in the login field. If that is the key, move it to"
                " the password field; in a URI, put a colon before it (sim://:KEY@host)"
            )
        return key or os.environ.get("SIM_API_KEY", "")

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the labels of the standard fields, for Airflow before 3.2; later ones read the provider's metadata."""
        behaviour: Any = CONNECTION_TYPE["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields, for Airflow before 3.2; later ones read the provider's metadata."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import StringField

        fields: Any = CONNECTION_TYPE["conn-fields"]
        return {
            name: StringField(field["label"], widget=BS3TextFieldWidget(), description=field["description"])
            for name, field in fields.items()
        }


def _base_url(connection: Connection) -> str | None:
    """Return the base URL of the fields host (a name, an address or a URL), port and schema; None without a host.

    Of a connection URI, Airflow stores the path as the schema, and an IPv6 address without its brackets.
    """
    host = (connection.host or "").strip()
    scheme, _, rest = host.rpartition("://")
    path = (connection.schema or "").strip().strip("/")
    if path.lower() in _STANDARD_PORTS:
        scheme, path = scheme or path.lower(), ""
    if not host:
        if path or connection.port not in (None, 0, *_STANDARD_PORTS.values()):
            raise ValueError("a port or a path (schema) without a host; set the host field")
        return None
    scheme = scheme or "https"
    name, _, prefix = rest.partition("/")
    if name.count(":") > 1 and "[" not in name:  # an IPv6 address
        name = f"[{name}]"
    has_port = ":" in name.rpartition("]")[2]
    if connection.port and connection.port != _STANDARD_PORTS.get(scheme) and not has_port:
        name = f"{name}:{connection.port}"
    return "/".join(filter(None, (f"{scheme}://{name}", prefix.strip("/"), path)))


def _parsed(value: Any) -> Any:
    """Return the value of a JSON text, such as a number from a form or a URI; others as they are, for later checks."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def _base_url_advice(error: SimError, base_url: str) -> str:
    """Return how to correct a base URL that leads to no Sim server; servers that expect https often return 400."""
    closed = isinstance(error, SimConnectionError) and error.outcome is not Outcome.NEVER_SENT
    not_sim = isinstance(error, SimResponseError | SimRouteMissingError)
    if base_url.startswith("http://") and (closed or (not_sim and error.status == 400)):
        return "If it uses https, start the base URL with https://."
    return "The base URL is the URL of Sim's start page, such as https://www.sim.ai, without /api." if not_sim else ""


def _account_summary(client: sim_client.SimClient) -> str:
    try:
        names = [space.name or space.workspace_id for space in client.list_workspaces().items]
        api = f"v2 API, workspaces: {', '.join(names[:5] + ['…'] * (len(names) > 5))}"
    except (SimV2OffError, SimRouteMissingError):
        raise
    except SimUnsupportedError:
        api = "legacy API; v2 is switched off or missing"
    usage = client.get_usage_limits()
    plan = f", {usage.plan} plan" if usage.plan else ""
    return f"Connected to {client.base_url} ({api}{plan})."
