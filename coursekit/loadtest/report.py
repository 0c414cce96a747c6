"""What `coursekit loadtest` runs, prints and writes."""

from __future__ import annotations

import argparse
import math
import os
import sys

from coursekit.loadtest.outcome import Outcome
from coursekit.loadtest.result import LoadTestResult
from coursekit.loadtest.run import load_test
from coursekit.loadtest.workloads import mixed_lengths
from coursekit.metrics import totals
from coursekit.trace_io import write_parquet
from coursekit.workload import Workload, poisson, read_workload

KEY = "OPENAI_API_KEY"  # where clients of this API look for it
COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")
SHOWN_FAILURES = 5


def run_and_report(options: argparse.Namespace) -> int:
    """Load the server as the command line says; print and write what came. 1 if none finished."""
    workload = workload_of(options)
    print(f"{workload!r} to {options.url}", flush=True)
    result = load_test(
        options.url, workload, num_users=options.users, think_s=options.think,
        model=options.model, api_key=os.environ.get(KEY), device=options.device,
        seed=options.seed, timeout_s=options.timeout, deadline_s=options.deadline,
        send_priority=options.send_priority, on_outcome=_progress(len(workload)),
    )  # fmt: skip
    print("\n".join(report(result)))
    if options.out:
        print(f"record: {write_parquet(result.trace, options.out)}")
    if options.json:
        print(f"summary: {result.write_json(options.json)}")
    return int(not any(outcome.is_finished for outcome in result.outcomes))


def workload_of(options: argparse.Namespace) -> Workload:
    """The workload that the options name. Raises ValueError if they name none, or two."""
    if (options.trace is None) == (options.requests is None):
        raise ValueError("give either --trace FILE or --requests N (with --rate R or --users N)")
    if options.rate is not None and options.users is not None:
        raise ValueError("give --rate (open loop) or --users (closed loop), not both")
    seed = options.seed or 0
    if options.requests is not None:
        if options.rate is None and options.users is None:
            raise ValueError("--requests needs --rate R (inf: all at once) or --users N")
        kinds = [_kind(text) for text in options.lengths]
        rate = math.inf if options.rate is None else options.rate
        return mixed_lengths(options.requests, kinds, rate, seed)
    workload = read_workload(options.trace)
    if options.rate is None:
        return workload
    if options.rate == math.inf:
        arrival_s = [0.0] * len(workload)
    else:
        arrival_s = poisson(options.rate, len(workload), seed)
    return Workload(
        arrival_s, workload.num_prompt_tokens, workload.num_output_tokens, workload.priority,
        workload.priority_class, workload.prompt_token_ids,
    )  # fmt: skip


def report(result: LoadTestResult) -> list[str]:
    """The lines of the tables: seconds by metric, by class if there are several, and the rest."""
    lines = [result.trace.label, "", *_table("all", result.metrics())]
    classes = result.classes()
    for name in classes if len(classes) > 1 else ():
        lines += ["", *_table(f"class {name}", result.metrics(name))]
    lines += ["", *_endings(result), ""]
    whole = totals(result.trace)
    for name in ("span_s", "requests_per_s", "output_tokens_per_s", "tokens_per_s"):
        lines.append(f"{name:<22}{whole[name]:>14,.6g}")
    info = result.trace.info
    if company := info["num_tokens_in_company"]:
        lines.append(f"{company} tokens came in one event with another: their gaps count as 0")
    if info["num_miscounted"]:
        lines.append(
            f"{info['num_miscounted']} answers have other counts than the server says: it does "
            "not count in each event, and an event was taken for a token"
        )
    return [*lines, result.lag.verdict(result.trace)]


def _table(title: str, rows: list[dict]) -> list[str]:
    lines = [f"{title + ', s':<20}{'over':<10}{'n':>8}" + "".join(f"{c:>10}" for c in COLUMNS)]
    for row in (row for row in rows if row["n"]):
        numbers = "".join(f"{row[column]:>10.4g}" for column in COLUMNS)
        lines.append(f"{row['metric'].removesuffix('_s'):<20}{row['over']:<10}{row['n']:>8,}{numbers}")
    return lines


def _endings(result: LoadTestResult) -> list[str]:
    lines = [f"{kind:<22}{count:>14,}" for kind, count in result.kinds.items()]
    failed = result.summary()["failures"]
    for failure in failed[:SHOWN_FAILURES]:
        detail = " ".join(failure["detail"].split())
        lines.append(f"  request {failure['request']}: {failure['kind']}: {detail[:100]}")
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"  and {len(failed) - SHOWN_FAILURES} more")
    return lines


def _kind(text: str) -> tuple[int, int]:
    try:
        prompt, output = map(int, text.split(":"))
    except ValueError:
        raise ValueError(f"--lengths takes PROMPT:OUTPUT tokens such as 1000:16, got {text!r}") from None
    return prompt, output


def _progress(num_requests: int):
    """A counter on a terminal, nothing elsewhere."""
    if not sys.stdout.isatty():
        return None
    ended = 0

    def count(outcome: Outcome) -> None:
        nonlocal ended
        ended += 1
        print(f"\r{ended} of {num_requests} ended", end="" if ended < num_requests else "\n", flush=True)

    return count
