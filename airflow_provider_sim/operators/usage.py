"""Operator that checks the account's usage limits, in US dollars and, on v2, in credits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_sim import arguments
from airflow_provider_sim.arguments import Rule
from airflow_provider_sim.exceptions import SimError, SimUsageLimitError
from airflow_provider_sim.operators.base import SimOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.client import BillingStatus, UsageLimits


class SimUsageLimitsOperator(SimOperator):
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
        **SimOperator.argument_rules,
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

    def execute(self, context: Context) -> dict[str, Any]:
        self.check(vars(self))
        limits = (self.warn_at, self.skip_at, self.fail_at)
        warn_at, skip_at, fail_at = (inf if limit is None else float(limit) for limit in limits)
        with self.hook as hook:
            figures = _figures(*hook.get_conn().get_usage())
        percent, summary = figures["percent_used"], _summary(figures)
        if self.do_xcom_push:
            context["ti"].xcom_push(key="usage", value=figures)
        if percent >= fail_at:
            raise SimError(f"{summary} The task fails from {fail_at:g} % on.", code=SimUsageLimitError.code)
        if percent >= skip_at:
            raise AirflowSkipException(f"{summary} The task is skipped from {skip_at:g} % on.")
        self.log.log(logging.WARNING if percent >= warn_at else logging.INFO, "%s", summary)
        return figures


def _figures(limits: UsageLimits, billing: BillingStatus | None) -> dict[str, Any]:
    """Return what the task returns; ``billing`` is None if v2 is off or doesn't report it."""
    percents = [limits.percent_used, billing.percent_used if billing else None]
    percent = max((known for known in percents if known is not None), default=0.0)
    credits = {name: getattr(billing, f"credits_{name}", None) for name in ("used", "limit", "remaining")}
    return {
        "percent_used": max(percent, 100.0) if billing and billing.refuses_runs else percent,
        "plan": limits.plan,
        "usd": {"used": limits.current_period_cost_usd, "limit": limits.limit_usd},
        "credits": credits if credits["limit"] is not None else None,
        "period": {"start": billing.period_start, "end": billing.period_end} if billing else None,
        "account_status": billing.account_status if billing else None,
        "rate_limits": {
            "sync": asdict(limits.sync) if limits.sync else None,
            "async": asdict(limits.asynchronous) if limits.asynchronous else None,
        },
    }


def _summary(figures: dict[str, Any]) -> str:
    usd, credits, status = figures["usd"], figures["credits"], figures["account_status"]
    used = f"${usd['used'] or 0:.2f} of ${usd['limit'] or 0:.2f}"
    if credits:
        used += f", {credits['used'] or 0:g} of {credits['limit']:g} credits"
    if status not in (None, "active"):
        used += f"; account status {status!r}"
    return f"{figures['percent_used']:.1f} % of the account's usage limit is used: {used}."
