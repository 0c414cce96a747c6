"""Priority classes: the module's chunk sizes against one size, and shares with ageing.

    python benchmarks/priority.py

Simulated on a roofline of an A100, Llama-2 7B: three draws of 900 requests of three classes at 5
requests a second, token budget 512. A row is the median of the draws.
"""

from __future__ import annotations

import statistics

from record import Row, publish

from coursekit.analyzers.priority import class_rows, compare_policies, mixed_workload
from coursekit.cost import RooflineCost

SEEDS = (0, 50, 100)


def main() -> None:
    cost = RooflineCost("a100", "llama-2-7b")
    draws = [compare_policies(mixed_workload(seed=seed), cost) for seed in SEEDS]
    rows = ttft_rows(draws, "module's sizes", ("> it", False))
    rows += ttft_rows(draws, "shares with ageing", ("< it", True))
    rows += [step_row(draws), *wait_rows(draws)]
    publish("priority", "python benchmarks/priority.py", rows)


def median_of(draws, policy: str, name: str, column: str) -> float:
    return statistics.median(
        getattr(row, column)
        for runs in draws
        for row in class_rows(runs)
        if (row.policy, row.priority_class) == (policy, name)
    )


def ttft_rows(draws, policy: str, wanted: tuple[str, bool]) -> list[Row]:
    """TTFT of the high and the low class under `policy` beside one size for all."""
    target, smaller = wanted
    rows = []
    for name in ("high", "low"):
        for column, percentile in (("ttft_p50_s", "P50"), ("ttft_p99_s", "P99")):
            ours, one = (median_of(draws, p, name, column) for p in (policy, "one size"))
            is_high = name == "high"
            rows.append(Row(
                f"TTFT {percentile} of the {name} class, {policy}, beside one size", ours, one,
                "s", target if is_high else "", not is_high or (ours < one) == smaller,
            ))  # fmt: skip
    return rows


def step_row(draws) -> Row:
    policies = ("module's sizes", "one size")
    ours, one = (median_of(draws, policy, "high", "beside_p50_s") for policy in policies)
    return Row(
        "iteration with prompts of the high class alone, module's sizes, beside one size", ours,
        one, "s", "< it", ours < one, "median; what those that decode wait for",
    )  # fmt: skip


def wait_rows(draws) -> list[Row]:
    """The low request that comes nearest to its bound, and the one that waits longest."""
    rows = []
    for what, key in (("longest", lambda w, b: w), ("nearest to its bound", lambda w, b: w / b)):
        waits = [
            (int(wait), int(bound))
            for runs in draws
            for wait, bound, name in zip(
                runs[-1].waits, runs[-1].bounds, runs[-1].trace.requests["priority_class"]
            )
            if name == "low"
        ]
        wait, bound = max(waits, key=lambda each: key(*each))
        rows.append(Row(
            f"wait of the low class, shares with ageing, {what}, beside its bound", wait, bound,
            "iterations", "<= it", all(w <= b for w, b in waits),
            f"to the first token; of {len(waits)} requests",
        ))  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
