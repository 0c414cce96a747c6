"""The long run behind `make oracle`: seeded random cases, vLLM's schedule against ours.

    python -m tests.oracle --cases 20000 --seed 0 --processes 2

Prints progress and what the cases exercised. Exit status: 0 if every decision was the same,
1 with the smallest failing case found, 2 if vLLM is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.oracle.strategies import random_case

PROGRESS_S = 5.0


def main() -> int:
    args = _arguments()
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed here, so there is nothing to compare with.", file=sys.stderr)
        return 2
    from tests.oracle.worker import try_seed

    seeds = range(args.seed, args.seed + args.cases)
    print(f"{args.cases} cases, seeds {seeds[0]} to {seeds[-1]}, {args.processes} processes")
    began = last = time.monotonic()
    totals, failed = Counter(), None
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        for seed, (seen, same) in zip(seeds, pool.map(try_seed, seeds, chunksize=20), strict=True):
            totals.update(seen)
            if not same:
                failed = seed
                pool.shutdown(cancel_futures=True)
                break
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
                rate = totals["cases"] / (last - began)
                print(f"  {totals['cases']:,} cases, {rate:.0f} a second, no mismatch", flush=True)
    return _report(totals, failed, time.monotonic() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make oracle", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=_at_least_one, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=_at_least_one, default=os.cpu_count() or 1)
    return parser.parse_args()


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {number}")
    return number


def _report(totals: Counter, failed: int | None, duration_s: float) -> int:
    for what, number in totals.items():
        print(f"{number:>12,}  {what}")
    print(f"{totals['cases'] / duration_s:>12,.0f}  cases a second, {duration_s:.0f} s in all")
    if failed is None:
        print(f"Same decision as vLLM in every step of all {totals['cases']:,} cases.")
        return 0
    from tests.oracle.compare import compare, shrink

    print(f"MISMATCH with seed {failed}; made smaller, it still shows:\n")
    smallest = shrink(random_case(failed), lambda case: compare(case)[1] is not None)
    print(compare(smallest)[1])
    return 1


if __name__ == "__main__":
    sys.exit(main())
