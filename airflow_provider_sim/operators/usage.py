"""Operator that checks the account's usage limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import Rule
from airflow_provider_sim.exceptions import SimError, SimUsageLimitError
from airflow_provider_sim.operators.base import SimClientOperator
from airflow_provider_sim.task.usage import Usage

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import SimClient

USAGE_KEY = "usage"
"""XCom key of the figures, which are pushed also if the task is skipped or fails."""


class SimUsageLimitsOperator(SimClientOperator):
    """Return the account's limits and usage, and warn, skip or fail at a percentage of the limit.

    The figures are those of the key's owner; for a workspace key, of the user who created it. Returns
    ``percent_used``, ``plan``, ``usd`` (``used`` and ``limit``, US dollars), ``credits`` (``used``, ``limit``,
    ``remaining``; None if the server or the key doesn't report them), ``period`` (``start`` and ``end``, ISO 8601 UTC),
    ``account_status`` and ``rate_limits``. They are also the XCom ``usage``, which is pushed even if the task is
    skipped or fails.

    :param warn_at: percent of the limit at which the task log gets a warning. (templated)
    :param skip_at: percent at which the task and its downstream tasks are skipped. (templated)
    :param fail_at: percent at which the task fails; checked before ``skip_at``. With ``retries`` and ``retry_delay``,
        the task waits until less is used. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param retry_args: retry settings for idempotent requests, which override the connection's.
    :raises SimError: ``fail_at`` is reached; retryable.
    :raises SimInputError: one of the three is not a percentage; no request was sent.
    """

    template_fields: Sequence[str] = ("warn_at", "skip_at", "fail_at", "sim_conn_id")
    argument_rules: ClassVar[Mapping[str, Rule]] = {
        **SimClientOperator.argument_rules,
        **dict.fromkeys(("warn_at", "skip_at", "fail_at"), arguments.optional(arguments.percentage)),
    }

    def __init__(
        self,
        *,
        warn_at: float | str | None = None,
        skip_at: float | str | None = None,
        fail_at: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.warn_at = warn_at
        self.skip_at = skip_at
        self.fail_at = fail_at
        self._check_constants()

    def execute_with(self, client: SimClient, context: Context) -> dict[str, Any]:
        """Get the figures, then warn, skip or fail."""
        limits = (self.warn_at, self.skip_at, self.fail_at)
        warn_at, skip_at, fail_at = (inf if limit is None else float(limit) for limit in limits)
        usage = Usage(*client.get_usage())
        figures = usage.as_dict()
        if self.do_xcom_push:
            context["ti"].xcom_push(key=USAGE_KEY, value=figures)
        if usage.percent >= fail_at:
            raise SimError(f"{usage} The task fails from {fail_at:g} % on.", code=SimUsageLimitError.default_code)
        if usage.percent >= skip_at:
            raise AirflowSkipException(f"{usage} The task is skipped from {skip_at:g} % on.")
        if usage.percent >= warn_at:
            self.log.warning("%s", usage)
        else:
            self.log.info("%s", usage)
        return figures
