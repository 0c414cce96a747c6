"""Alerts with hysteresis: raised when a value has been high for a while, cleared after a while low.

Between the two limits nothing changes, so a value that trembles around one of them does not make
an alert flap. The rules are those of deploy/alerts.yml, which Prometheus runs on the same metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coursekit.metrics import Slo
from coursekit.monitor.reading import Reading

LARGER_BUDGET = "raise max_num_batched_tokens if ITL has slack, or add a replica"
FEWER_SEQUENCES = "lower max_num_seqs or give the KV cache more memory"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """value: what of a reading is watched, nan if it is not there; turn: what to do about it.

    Raised once the value has been over `raise_above` for `for_s` seconds without a break, cleared
    once it has been under `clear_below` as long. Raises ValueError for limits in the wrong order.
    """

    name: str
    value: Callable[[Reading], float]
    raise_above: float
    clear_below: float
    for_s: float
    severity: str
    turn: str

    def __post_init__(self):
        if not self.clear_below <= self.raise_above:
            raise ValueError(
                f"{self.name}: clear_below must be <= raise_above {self.raise_above}, "
                f"got {self.clear_below}"
            )
        if not self.for_s >= 0:
            raise ValueError(f"{self.name}: for_s must be >= 0 s, got {self.for_s}")


class AlertEvent(NamedTuple):
    """An alert that was raised, or cleared, and the value that did it."""

    rule: AlertRule
    is_raised: bool
    value: float
    at_s: float

    def __str__(self) -> str:
        if not self.is_raised:
            return f"cleared: {self.rule.name} ({self.value:.4g})"
        rule = self.rule
        found = f"{self.value:.4g} over {rule.raise_above:.4g}"
        return f"{rule.severity}: {rule.name}: {found}; {rule.turn}"


class Alert:
    """One rule's state. A value that is not there (nan) changes nothing but breaks a wait."""

    def __init__(self, rule: AlertRule):
        self.rule = rule
        self.is_raised = False
        self._since_s: float | None = None  # the value has been where it must be for a change
        self._last_s = float("-inf")

    def update(self, value: float, at_s: float) -> AlertEvent | None:
        """Take the value at `at_s` seconds, not before the last; the event if the state changes."""
        if at_s < self._last_s:
            raise ValueError(f"time must not go back, got {at_s} s after {self._last_s} s")
        self._last_s = at_s
        rule = self.rule
        turns = value < rule.clear_below if self.is_raised else value > rule.raise_above
        if not turns:
            self._since_s = None
            return None
        if self._since_s is None:
            self._since_s = at_s
        if at_s - self._since_s < rule.for_s:
            return None
        self.is_raised, self._since_s = not self.is_raised, None
        return AlertEvent(rule, self.is_raised, value, at_s)


class AlertBoard:
    """All alerts of a server."""

    def __init__(self, rules: Sequence[AlertRule]):
        self.alerts = [Alert(rule) for rule in rules]

    def update(self, reading: Reading, at_s: float) -> list[AlertEvent]:
        """Look at a reading of `at_s` seconds: what it raises and clears."""
        changes = [alert.update(alert.rule.value(reading), at_s) for alert in self.alerts]
        return [change for change in changes if change is not None]

    @property
    def raised(self) -> list[AlertRule]:
        """The rules whose alert stands."""
        return [alert.rule for alert in self.alerts if alert.is_raised]


def default_rules(slo: Slo = Slo(itl_s=0.2, ttft_s=2.5)) -> list[AlertRule]:
    """ITL, TTFT, queue, KV usage, preemptions, scrape: each clears at four fifths of its limit."""

    def rule(name, value, limit, turn, for_s=120.0, severity="warning"):
        return AlertRule(name, value, limit, 0.8 * limit, for_s, severity, turn)

    queue_s = (slo.ttft_s or 2.5) / 2
    rules = [
        rule("QueueLong", lambda r: r.queue.p95.value, queue_s, LARGER_BUDGET),
        rule("KvCacheFull", lambda r: r.kv_usage, 0.95, FEWER_SEQUENCES),
        rule("Preemptions", lambda r: r.preemptions_per_s, 0.1, FEWER_SEQUENCES),
        rule("VllmDown", lambda r: float(not r.is_up), 0.5, "look at its log", 30.0, "critical"),
    ]
    if slo.itl_s is not None:
        turn = "lower max_num_batched_tokens"
        rules.append(
            rule("ItlP99High", lambda r: r.itl.p99.value, slo.itl_s, turn, severity="critical")
        )
    if slo.ttft_s is not None:
        rules.append(rule("TtftP99High", lambda r: r.ttft.p99.value, slo.ttft_s, LARGER_BUDGET))
    return rules
