"""Wait until the account has room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSensorTimeout, BaseSensorOperator, PokeReturnValue, conf

from airflow_provider_sim.deferral import BACKSTOP, after_deferral
from airflow_provider_sim.exceptions import SimError
from airflow_provider_sim.hooks.sim import SimHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sim.usage import UsageWatch


class SimUsageSensor(BaseSensorOperator):
    """Wait until less than so much of the account's usage limit is used: it was raised, or the next period has begun.

    That may take days, so don't hold a worker for them: ``deferrable=True``, or ``mode="reschedule"``. Its XCom is what
    :class:`~airflow_provider_sim.operators.usage.SimUsageLimitsOperator` returns. Single looks that fail don't count,
    unless too many in a row do.

    :param below: percent of the limit. (templated)
    :param sim_conn_id: the Airflow connection of type Sim. (templated)
    :param deferrable: wait in the triggerer, without a worker.
    :param poke_interval: seconds or timedelta between looks, in all modes.
    :param timeout: seconds or timedelta to wait; then the sensor times out.
    :param retry_args: as for :class:`~airflow_provider_sim.operators.sim.SimExecuteWorkflowOperator`.
    :raises SimInputError: ``below`` is no percentage; nothing was asked.
    """

    template_fields: Sequence[str] = ("below", "sim_conn_id")
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        below: float | str = 100.0,
        sim_conn_id: str = SimHook.default_conn_name,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: float | timedelta = 300.0,
        retry_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.below = below
        self.sim_conn_id = sim_conn_id
        self.deferrable = deferrable
        self.retry_args = retry_args

    def execute(self, context: Context) -> Any:
        """Look until there is room: here, in later legs, or in the triggerer."""
        from airflow_provider_sim.usage import percent

        percent("below", self.below)
        if not self.deferrable:
            return super().execute(context)
        done = self.poke(context)
        if done:
            return done.xcom_value
        self._defer()
        return None

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the usage once; done with the figures as the XCom."""
        from airflow_provider_sim.usage import Usage

        try:
            with SimHook(self.sim_conn_id, retry_args=self.retry_args) as hook:
                usage = Usage(*hook.get_conn().get_usage())
        except SimError as error:
            self._watch.missed(error)
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=self._watch.saw(usage), xcom_value=usage.as_dict())

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Go on when the trigger has fired: return the figures, or wait on if the room is gone again."""
        status = (event or {}).get("status")
        if status == "timeout":
            raise self._out_of_time()
        if status == "error":
            raise SimError(f"Lost sight of the usage limit while waiting for room: {(event or {}).get('message')}")
        if status != "room":
            raise SimError(f"The trigger's event isn't one of SimUsageTrigger's: {event!r}.")
        return self.execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, also where Airflow itself has ended it."""
        return super().resume_execution(*after_deferral(next_method, next_kwargs), context)

    def execute_out_of_time(self, context: Context) -> Any:
        """Look a last time, since no trigger did in time."""
        done = self.poke(context)
        if done:
            return done.xcom_value
        raise self._out_of_time()

    def _out_of_time(self) -> AirflowSensorTimeout:
        return AirflowSensorTimeout(
            f"The account had no room when the time to wait for it was up: {self._watch.below:g} % of its usage limit"
            " or more is used. Raise the limit in Sim, or the sensor's timeout."
        )

    @cached_property
    def _watch(self) -> UsageWatch:
        from airflow_provider_sim.usage import UsageWatch, percent

        return UsageWatch(percent("below", self.below) or 100.0)

    def _defer(self) -> None:
        from airflow_provider_sim.triggers.usage import SimUsageTrigger

        trigger = SimUsageTrigger(
            below=self._watch.below,
            sim_conn_id=self.sim_conn_id,
            poll_interval=self.poke_interval,
            timeout=self.timeout,
        )
        patience = timedelta(seconds=self.timeout) + BACKSTOP
        self.defer(trigger=trigger, method_name="execute_complete", timeout=patience)
