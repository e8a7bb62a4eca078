"""Wait until the account has room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, PokeReturnValue

from airflow_provider_sim.hooks.sim import SimHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class SimUsageSensor(BaseSensorOperator):
    """Wait until less than so much of the account's usage limit is used: it was raised, or the next period has begun.

    That may take days: ``mode="reschedule"`` frees the worker between looks. Its XCom is what
    :class:`~airflow_provider_sim.operators.usage.SimUsageLimitsOperator` returns.

    :param below: percent of the limit.
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param poke_interval: seconds between looks.
    :param retry_args: as for :class:`~airflow_provider_sim.operators.sim.SimExecuteWorkflowOperator`.
    """

    template_fields: Sequence[str] = ("sim_conn_id",)
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        below: float = 100.0,
        sim_conn_id: str = SimHook.default_conn_name,
        poke_interval: float = 300.0,
        retry_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.below = below
        self.sim_conn_id = sim_conn_id
        self.retry_args = retry_args

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the usage once."""
        from airflow_provider_sim.usage import Usage

        with SimHook(self.sim_conn_id, retry_args=self.retry_args) as hook:
            usage = Usage.ask(hook.get_conn())
        ends = usage.billing.period_end if usage.billing else None
        self.log.info("%s%s", usage, f" The period ends at {ends}." if ends else "")
        return PokeReturnValue(is_done=usage.percent < self.below, xcom_value=usage.as_dict())
