"""What `coursekit simulate` prints and writes."""

from __future__ import annotations

import argparse

from coursekit.metrics import Slo, summarize, totals
from coursekit.simulate import simulate
from coursekit.trace import Trace
from coursekit.trace_io import write_chrome, write_parquet
from coursekit.workload import read_workload


def run_and_report(options: argparse.Namespace) -> int:
    """Simulate as the command line says, print two tables, write what was asked for."""
    slo = None
    if options.slo_ttft is not None or options.slo_itl is not None:
        slo = Slo(ttft_s=options.slo_ttft, itl_s=options.slo_itl)
    trace = simulate(
        read_workload(options.trace), options.scheduler, options.hardware, options.model,
        options.token_budget, options.max_num_seqs, options.num_blocks, options.block_size,
    )  # fmt: skip
    print("\n".join(report(trace, slo)))
    if options.out:
        print(f"record: {write_parquet(trace, options.out)}")
    if options.chrome:
        print(f"for Perfetto: {write_chrome(trace, options.chrome)}")
    return 0


def report(trace: Trace, slo: Slo | None = None) -> list[str]:
    """The lines of the two tables: seconds by metric, and the run as a whole."""
    scheduler = trace.info.get("scheduler", {}).get("name", "")
    lines = [f"{trace.label}, {scheduler}", ""]
    if trace.info.get("extrapolated"):
        lines.insert(1, "extrapolated: some batches lie outside what the cost was measured with")
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    lines.append(f"{'seconds':<20}{'over':<10}{'n':>10}" + "".join(f"{c:>10}" for c in columns))
    for row in summarize(trace):
        numbers = "".join(f"{row[column]:>10.4g}" for column in columns)
        lines.append(f"{row['metric'].removesuffix('_s'):<20}{row['over']:<10}{row['n']:>10,}{numbers}")
    lines.append("")
    for name, value in totals(trace, slo).items():
        lines.append(f"{name:<22}{value:>14,.6g}")
    return lines
