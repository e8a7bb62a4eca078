"""Usage and limits of an account, in US dollars and, on v2, in credits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_sim.exceptions import Outcome, SimUsageLimitError

if TYPE_CHECKING:
    from airflow_provider_sim.client import BillingStatus, UsageLimits


@dataclass(frozen=True, slots=True)
class Usage:
    """Limits and usage of the key's owner; for a workspace key, of the user who created it.

    :param billing: None if v2 is off, or doesn't report it.
    """

    limits: UsageLimits
    billing: BillingStatus | None

    @property
    def percent(self) -> float:
        """The percentage used, in US dollars or credits, whichever is higher; 0 without a limit."""
        known = [self.limits.percent_used, self.billing.percent_used if self.billing else None]
        used = max((percent for percent in known if percent is not None), default=0.0)
        return max(used, 100.0) if self.billing is not None and self.billing.refuses_runs else used

    def require_below(self, percent: float, *, workflow_id: str | None = None) -> None:
        """Raise if ``percent`` of the limit or more is used."""
        if self.percent >= percent:
            raise SimUsageLimitError(
                f"{self} The task requires less than {percent:g} %. Raise the limit in Sim, or wait for the next"
                " billing period.",
                workflow_id=workflow_id,
                outcome=Outcome.NEVER_SENT,
            )

    def __str__(self) -> str:
        """Return a sentence for the log."""
        usd = f"${self.limits.current_period_cost_usd or 0:.2f} of ${self.limits.limit_usd or 0:.2f}"
        text = f"{self.percent:.1f} % of the account's usage limit is used: {usd}"
        if self.billing is not None and self.billing.credits_limit is not None:
            text += f", {self.billing.credits_used or 0:g} of {self.billing.credits_limit:g} credits"
        if self.billing is not None and self.billing.account_status not in (None, "active"):
            text += f"; account status {self.billing.account_status!r}"
        return f"{text}."

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for an XCom."""
        limits, billing = self.limits, self.billing
        return {
            "percent_used": self.percent,
            "plan": limits.plan,
            "usd": {"used": limits.current_period_cost_usd, "limit": limits.limit_usd},
            "credits": {
                "used": billing.credits_used,
                "limit": billing.credits_limit,
                "remaining": billing.credits_remaining,
            }
            if billing and billing.credits_limit is not None
            else None,
            "period": {"start": billing.period_start, "end": billing.period_end} if billing else None,
            "account_status": billing.account_status if billing else None,
            "rate_limits": {
                "sync": asdict(limits.sync) if limits.sync else None,
                "async": asdict(limits.asynchronous) if limits.asynchronous else None,
            },
        }
