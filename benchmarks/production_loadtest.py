"""The load test beside `vllm bench serve`: the same arrivals and lengths on the same server.

Both send prompts as token ids and greedy, in turns (`ROUNDS`). Prompts are drawn anew each
time, so that no prefix cache knows them. Statistics are over all rounds of a client, pooled.

The same client on the same server does not find the same twice: over five runs of this benchmark
the open loop's median TTFT lay 9% under to 4% over vLLM's, with rounds of one client 8 to 14%
apart. Held against the server's own account of each round, in the last two, the clients were within 3%.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from record import Row

from coursekit.itl import itls
from coursekit.loadtest import LoadTestResult, load_test
from coursekit.metrics import request_metrics
from coursekit.monitor.metrics_text import Scrape, gained, histogram, read_metrics
from coursekit.workload import Workload, poisson

LIMIT = 0.05
ROUNDS = ("vllm", "ours", "ours", "vllm")
NUM_REQUESTS, RATE_PER_S, NUM_USERS = 60, 3.0, 6
PROMPTS, OUTPUTS = (30, 280), (12, 36)  # tokens, uniform, both included
LOOPS = {
    f"{NUM_USERS} users": ["--no-self-timed", "--max-concurrency", str(NUM_USERS)],
    f"{RATE_PER_S:g} requests/s": [],
}
METRICS = ("TTFT", "TPOT", "ITL")
SERVER_NAMES = {
    "TTFT": "vllm:time_to_first_token_seconds",
    "ITL": "vllm:inter_token_latency_seconds",
}
# `python -m vllm.benchmarks.serve` has no main; the CPU package's `vllm` does not start.
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def rows(url: str | None) -> list[Row]:
    """Mean and median TTFT, TPOT and ITL of both clients, closed and open loop."""
    found = []
    with a_server(url) as address:
        for loop in LOOPS:
            found += compare(address, loop)
    return found


@contextmanager
def a_server(url: str | None):
    """The address of the server that runs at `url`, or of one that is started for this."""
    if url is not None:
        yield url
        return
    from coursekit.deploy import deploy_chunked_prefill

    with deploy_chunked_prefill("mixed_interactive") as server:
        yield server.base_url


def compare(url: str, loop: str) -> list[Row]:
    """Both clients in turns, after a round that is thrown away.

    It pays for what the server does once for each batch of a new shape (kernels, buffers);
    without it vLLM's first round was some 7% slower than its others.
    """
    found = {"vllm": defaultdict(list), "ours": defaultdict(list)}
    own = {"vllm": defaultdict(list), "ours": defaultdict(list)}
    workload, lags_s = drawn_workload(), []
    for number, client in enumerate(("ours", *ROUNDS)):
        before = scrape(url)
        if client == "vllm":
            metrics = run_bench_serve(url, workload, LOOPS[loop])
        else:
            metrics, lag_s = run_ours(url, workload, NUM_USERS if LOOPS[loop] else None)
            lags_s.append(lag_s)
        gains = gained(before, scrape(url))
        for name in METRICS if number else ():
            found[client][name].append(metrics[name])
        for name, series in SERVER_NAMES.items() if number else ():
            own[client][name].append(histogram(gains, series))
    lag = f"our event loop's lag, P99: {1e3 * max(lags_s):.1f} ms"
    note = f"{len(ROUNDS) // 2} times {NUM_REQUESTS} requests; {lag}"
    rows = [
        compared(f"{loop}: {statistic.__name__} {name}", found, name, statistic, note)
        for name in METRICS
        for statistic in (np.mean, np.median)
    ]
    return rows + [beside_server(f"{loop}: mean {name}", found, own, name) for name in SERVER_NAMES]


def scrape(url: str) -> Scrape:
    with urlopen(f"{url}/metrics") as page:
        return read_metrics(page.read().decode())


def run_ours(url: str, workload: Workload, num_users: int | None) -> tuple[dict, float]:
    """Our client's metrics, and its event loop's lag."""
    result = load_test(url, workload, num_users=num_users)
    if result.kinds != {"finished": len(workload)}:
        sys.exit(f"not every request finished: {result.kinds}")
    return client_metrics(result), result.lag.loop_p99_s


def drawn_workload() -> Workload:
    """Poisson arrivals (of which a closed loop takes the order only), uniform lengths."""
    rng = np.random.default_rng(0)
    prompts, outputs = (rng.integers(*b, NUM_REQUESTS, endpoint=True) for b in (PROMPTS, OUTPUTS))
    return Workload(poisson(RATE_PER_S, NUM_REQUESTS), prompts, outputs)


def compared(what: str, found: dict, name: str, statistic, note: str) -> Row:
    """One statistic of both, pooled; the note also says how far each one's own rounds differ."""
    ours, theirs = (
        float(statistic(np.concatenate(found[client][name]))) for client in ("ours", "vllm")
    )
    rounds = {c: [float(statistic(values)) for values in found[c][name]] for c in found}
    apart = {client: max(values) / min(values) - 1 for client, values in rounds.items()}
    note = f"{note}; rounds apart: vLLM's {apart['vllm']:.1%}, ours {apart['ours']:.1%}"
    holds = abs(ours / theirs - 1) <= LIMIT
    return Row(f"CPU, {what}", ours, theirs, "s", f"within {LIMIT:.0%}", holds, note)


def beside_server(what: str, found: dict, own: dict, name: str) -> Row:
    """Each client's mean over what the server itself measured in the same rounds.

    The server is never twice alike; held against its own account, only the clients differ.
    """
    ratios = {}
    for client, values in found.items():
        server = own[client][name]
        mean_s = sum(one.total for one in server) / sum(one.counts[-1] for one in server)
        ratios[client] = float(np.mean(np.concatenate(values[name]))) / mean_s
    holds = abs(ratios["ours"] / ratios["vllm"] - 1) <= LIMIT
    return Row(
        f"CPU, {what} over the server's own account of the same rounds", ratios["ours"],
        ratios["vllm"], "times", f"within {LIMIT:.0%}", holds, "what a client adds, whatever the server's speed was",
    )  # fmt: skip


def client_metrics(result: LoadTestResult) -> dict[str, np.ndarray]:
    """Metric -> its values in seconds: over requests for TTFT and TPOT, over tokens for ITL."""
    metrics = request_metrics(result.trace)
    tpot_s = metrics["tpot_s"]
    return {
        "TTFT": metrics["ttft_s"],
        "TPOT": tpot_s[~np.isnan(tpot_s)],
        "ITL": np.repeat(*itls(result.trace)),
    }


def run_bench_serve(url: str, workload: Workload, options: list[str]) -> dict[str, np.ndarray]:
    """Run vLLM's client on `workload`; return what it measured.

    Its timed traces name prompts by hashes, from which it draws token ids, other ones in each
    process: one hash a request, for chunks as long as any prompt.
    """
    with tempfile.TemporaryDirectory() as folder:
        trace, out = Path(folder) / "trace.jsonl", Path(folder) / "result.json"
        columns = (workload.arrival_s, workload.num_prompt_tokens, workload.num_output_tokens)
        with trace.open("w") as file:
            for index, row in enumerate(zip(*(column.tolist() for column in columns))):
                entry = dict(zip(("timestamp", "input_length", "output_length"), row))
                file.write(json.dumps({**entry, "hash_ids": [index]}) + "\n")
        command = [
            sys.executable, "-c", BENCH_SERVE, "--backend", "openai", "--base-url", url,
            "--dataset-name", "timed_trace", "--dataset-path", str(trace),
            "--timed-trace-chunk-hash-size", str(PROMPTS[1]), "--timed-trace-sec-multiplier", "1",
            "--num-prompts", str(len(workload)), "--temperature", "0", "--disable-tqdm",
            "--ready-check-timeout-sec", "0",  # the check would send the first prompt beforehand
            "--save-result", "--save-detailed", "--result-dir", folder,
            "--result-filename", out.name, *options,
        ]  # fmt: skip
        settings = {"PYTHONHASHSEED": "random", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment = {**os.environ, **settings}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"vllm bench serve failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
        result = json.loads(out.read_text())
    lengths = ("input_lens", workload.num_prompt_tokens), ("output_lens", workload.num_output_tokens)
    for name, expected in lengths:  # a request that failed has none
        if result[name] != expected.tolist():
            sys.exit(f"vllm bench serve has other {name} than it was given")
    return bench_metrics(result)


def bench_metrics(result: dict) -> dict[str, np.ndarray]:
    """The metrics of a detailed result, as `vllm.benchmarks.serve.calculate_metrics` has them."""
    ttft_s = np.array(result["ttfts"])
    sums_s = np.array([sum(gaps) for gaps in result["itls"]])
    gaps = np.array(result["output_lens"]) - 1
    found = {
        "TTFT": ttft_s,
        "TPOT": (sums_s / np.maximum(gaps, 1))[gaps > 0],
        "ITL": np.concatenate([np.array(gaps) for gaps in result["itls"]]),
    }
    for name, values in found.items():  # its own averages are of the same values
        own_s = result[f"mean_{name.lower()}_ms"] / 1e3
        if abs(values.mean() - own_s) > 1e-3 * own_s:
            sys.exit(f"mean {name}: {values.mean()} from its details, {own_s} by its own account")
    return found
