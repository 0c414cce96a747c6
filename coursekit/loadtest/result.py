"""The result of a load test: the record, the outcomes, and a summary of both.

Latencies are `coursekit.metrics` of the record, so they mean what they mean for any engine;
arrival is when the request was really sent. What a client adds is the count of each kind of
ending and its own lag.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from coursekit.loadtest.client import Target
from coursekit.loadtest.lag import ClientLag
from coursekit.loadtest.outcome import FINISHED, NOT_SENT, Outcome, count_kinds
from coursekit.loadtest.record import make_trace, only
from coursekit.metrics import summarize, totals
from coursekit.trace import Trace
from coursekit.workload import Workload

TOTALS = ("span_s", "requests_per_s", "output_tokens_per_s", "tokens_per_s", "fairness")
NOT_SEEN = "scheduling_delay_s"  # a client does not know when it was first scheduled


@dataclass(frozen=True, slots=True)
class LoadTestResult:
    """What a load test found.

    trace: every request that was sent. outcomes: one for each request of the workload, by
    index, also of those that were not. lag: the client's own delays.
    """

    trace: Trace
    outcomes: list[Outcome]
    lag: ClientLag

    @property
    def kinds(self) -> dict[str, int]:
        """How many requests ended in each kind; together, all of the workload."""
        return count_kinds(self.outcomes)

    def metrics(self, priority_class: str | None = None) -> list[dict]:
        """Rows of `metrics.summarize`, of all requests or of one class."""
        trace = self.trace
        if priority_class is not None:
            trace = only(trace, trace.requests["priority_class"] == priority_class)
        return [row for row in summarize(trace) if row["metric"] != NOT_SEEN]

    def classes(self) -> list[str]:
        """The priority classes that were sent, in alphabetical order."""
        return sorted(set(self.trace.requests["priority_class"]))

    def summary(self) -> dict:
        """All of it as plain JSON values: seconds; None for what there is none of."""
        trace = self.trace
        whole = totals(trace)
        finished = [outcome for outcome in self.outcomes if outcome.is_finished]
        return _plain({
            "label": trace.label,
            "requests": {"workload": len(self.outcomes), "finished": len(finished), **_tokens(finished)},
            "kinds": self.kinds,
            "failures": failures(self.outcomes),
            "totals": {name: whole[name] for name in TOTALS},
            "metrics": self.metrics(),
            "by_class": {name: self.metrics(name) for name in self.classes()},
            "client": {**asdict(self.lag), "too_slow": bool(self.lag.is_too_slow(trace)),
                       "verdict": self.lag.verdict(trace)},
            "info": trace.info,
        })  # fmt: skip

    def write_json(self, path: str | Path) -> Path:
        """Write `summary` to a file; return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.summary(), indent=1) + "\n")
        return path


def make_result(
    outcomes: list[Outcome],
    workload: Workload,
    target: Target,
    device: str,
    lag: ClientLag,
    settings: dict,
) -> LoadTestResult:
    """The result of outcomes that all have ended. settings: of the run, plain JSON values."""
    server = {"url": target.url, "model": _name(target), "version": target.version, "device": device}
    info = {
        **settings,
        "server": server,
        "kinds": count_kinds(outcomes),
        "client": asdict(lag),
        "num_events": sum(len(outcome.num_tokens) for outcome in outcomes),
        "num_tokens_in_company": num_tokens_in_company(outcomes),
        "num_miscounted": num_miscounted(outcomes),
    }  # fmt: skip
    trace = make_trace(outcomes, workload, _label(target, device), _plain(info))
    return LoadTestResult(trace, outcomes, lag)


def num_tokens_in_company(outcomes: Sequence[Outcome]) -> int:
    """Tokens that came in an event after another: their gaps are 0, when they were made is not
    known. Some are a server under load; many are a client that reads too slowly."""
    return sum(sum(outcome.num_tokens) - len(outcome.num_tokens) for outcome in outcomes)


def num_miscounted(outcomes: Sequence[Outcome]) -> int:
    """Finished requests for which the server counted other tokens than the events brought, or
    another prompt than was sent: 0 for a server that counts in each event."""
    return sum(
        outcome.is_finished
        and (
            outcome.server_output_tokens not in (None, outcome.num_output_tokens)
            or outcome.server_prompt_tokens not in (None, outcome.num_prompt_tokens)
        )
        for outcome in outcomes
    )


def failures(outcomes: Sequence[Outcome]) -> list[dict]:
    """Each request that was sent and did not finish: index, kind, detail, tokens that came."""
    return [
        {"request": o.index, "kind": o.kind, "detail": o.detail, "num_output_tokens": o.num_output_tokens}
        for o in outcomes
        if o.kind not in (FINISHED, NOT_SENT)
    ]


def _tokens(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {
        "num_prompt_tokens": sum(outcome.num_prompt_tokens for outcome in outcomes),
        "num_output_tokens": sum(outcome.num_output_tokens for outcome in outcomes),
    }


def _label(target: Target, device: str) -> str:
    version = f"vLLM {target.version}" if target.version else ""
    address = f"server at {urlsplit(target.url).netloc}"
    parts = [address, _name(target), version, device, "seen by its client"]
    return f"live ({', '.join(filter(None, parts))})"


def _name(target: Target) -> str:
    return Path(target.model).name  # a local model is named by its folder's path


def _plain(value):
    """`value` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
