"""The live engines: ours beside vLLM on the same batches, and what turning the budget does.

    python benchmarks/live_engine.py [--quick]

Both engines serve the same requests under the same token budgets, so they run the same
batches: decodes behind 256 tokens alone, and with chunks of a prompt. Each engine is measured
in fresh processes, in the order ours, vLLM, vLLM, ours, never two at once, with the same
weights, dtype and threads; a figure is the median over all. Leave the machine alone meanwhile.
GPU rows are measured where torch sees a GPU; see `gpu_engine`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from record import Row, publish

from coursekit.device import num_cores

ROOT = Path(__file__).resolve().parents[1]
DECODES, CHUNKS = (1, 4, 16), (64, 256, 1024)
CONTEXT, NUM_CHUNKS, NUM_ALONE = 256, 4, 16
ROUNDS = 3
BUDGETS, STREAMS, PROMPT = (64, 256, 1024, 2048), 4, 2000
ENGINE = {"token_budget": 2048, "max_token_budget": 2048, "max_num_seqs": 20, "max_model_len": 4600}
RATIO_TARGET = 1.15
# Why a batch misses its target, by PyTorch's profiler: the first that fits its name.
REASONS = {
    "1024": "attention is half of it: PyTorch's kernel for CPUs repeats a group's keys for each "
    "of its query heads and reads a mask, vLLM's does neither",
    "": "some 35 small operations a layer are launched one by one, where vLLM has a few kernels",
}
# coursekit lets waiting threads sleep early, for the sake of other programs; an engine that has
# the machine to itself, as vLLM's OpenMP takes for granted, lets them spin.
ALONE = {"GOMP_SPINCOUNT": "100000"}
ON_A_QUIET_MACHINE = ("batches-torch", "batches-vllm", "turning-torch", "turning-vllm")
DRAWING_TARGET, SLIDER_TARGET_S, REDRAWS_TARGET = 1.03, 0.1, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round each, no browser")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, out = options.measure
        Path(out).write_text(json.dumps(MEASURES[what]()))
        return
    order = ("torch", "vllm") if options.quick else ("torch", "vllm", "vllm", "torch")
    rows = mixed_batch_rows(order)
    rows += turning_rows("torch") + turning_rows("vllm")
    rows.append(drawing_row())
    if not options.quick:
        rows += browser_rows()
    import gpu_engine

    rows += gpu_engine.rows()
    publish("live_engine", "make bench", rows)


def in_a_fresh_process(what: str):
    """The result of a measure that another process takes."""
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, __file__, "--measure", what, out.name]
        environment = {**os.environ, **ALONE} if what in ON_A_QUIET_MACHINE else None
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        if done.returncode:
            sys.exit(f"{what} could not be measured:\n{done.stderr[-3000:]}")
        return json.loads(Path(out.name).read_text())


# --- The same mixed batches through both engines ---


def mixed_batch_rows(order: tuple[str, ...]) -> list[Row]:
    times = {"torch": defaultdict(list), "vllm": defaultdict(list)}
    for kind in order:
        for point, seconds in in_a_fresh_process(f"batches-{kind}").items():
            times[kind][point] += seconds
        print(f"{kind}: " + ", ".join(
            f"{point} {1e3 * statistics.median(seconds):.1f} ms"
            for point, seconds in times[kind].items()
        ), flush=True)  # fmt: skip
    rows = []
    for point in times["torch"]:
        ours, theirs = (statistics.median(times[kind][point]) for kind in ("torch", "vllm"))
        rows.append(Row(
            f"CPU, one iteration, {point}, beside vLLM", ours, theirs, "s",
            f"<= {RATIO_TARGET} times", ours <= RATIO_TARGET * theirs,
            f"median of {len(times['torch'][point])}, the same batches, {num_cores()} threads"
            + _reason(point) * (ours > RATIO_TARGET * theirs),
        ))  # fmt: skip
    return rows


def _reason(point: str) -> str:
    return "; " + next(why for name, why in REASONS.items() if name in point)


def measure_batches(kind: str) -> dict[str, list[float]]:
    """Point -> seconds of each of its iterations."""
    engine, times = new_engine(kind), defaultdict(list)
    for number in range(ROUNDS + 1):
        for num_decodes in DECODES:
            for point, seconds in measure_round(engine, num_decodes).items():
                if number:  # the first round pays for memory and code paths
                    times[point] += seconds
    return times


def measure_round(engine, num_decodes: int) -> dict[str, list[float]]:
    times = defaultdict(list)
    num_steps = NUM_ALONE + NUM_CHUNKS * len(CHUNKS)
    start_streams(engine, num_decodes, CONTEXT, num_decodes + num_steps + 8)
    for _ in range(NUM_ALONE):
        times[f"{num_decodes} decodes"].append(timed_step(engine)[1])
    for chunk in CHUNKS:
        engine.token_budget = num_decodes + chunk
        engine.submit(NUM_CHUNKS * chunk, 1)
        for _ in range(NUM_CHUNKS):
            step, seconds = timed_step(engine)
            assert (step.num_decode_tokens, step.num_prefill_tokens) == (num_decodes, chunk)
            times[f"{num_decodes} decodes and a chunk of {chunk}"].append(seconds)
    for index in list(engine.requests):
        engine.cancel(index)
    return times


def new_engine(kind: str):
    from coursekit.live.worker import build_engine

    return build_engine(kind, num_threads=num_cores(), **ENGINE)


def start_streams(engine, count: int, context: int, max_tokens: int) -> None:
    """Submit streams, and step until all of them decode."""
    engine.token_budget = engine.max_token_budget
    waiting = {engine.submit(context, max_tokens) for _ in range(count)}
    while waiting:
        waiting.difference_update(engine.step().tokens)


def timed_step(engine):
    began = time.perf_counter()
    step = engine.step()
    return step, time.perf_counter() - began


# --- The budget turned, a long prompt among streams ---


def turning_rows(kind: str) -> list[Row]:
    name = {"torch": "our engine", "vllm": "vLLM"}[kind]
    found = {int(b): values for b, values in in_a_fresh_process(f"turning-{kind}").items()}
    rows = []
    for number, what in enumerate(("worst step", "TTFT")):
        for budget in BUDGETS:
            rows.append(Row(
                f"CPU, {name}, {STREAMS} streams, a prompt of {PROMPT}, budget {budget}: {what}",
                found[budget][number], found[BUDGETS[-1]][number], "s",
                "" if budget == BUDGETS[-1] or number else f"< that of budget {BUDGETS[-1]}",
                number == 1 or budget == BUDGETS[-1]
                or found[budget][0] < found[BUDGETS[-1]][0],
                f"beside budget {BUDGETS[-1]}, turned live",
            ))  # fmt: skip
    return rows


def measure_turning(kind: str) -> dict[int, tuple[float, float]]:
    """Budget -> worst step and TTFT, medians of three."""
    engine = new_engine(kind)
    found = {budget: [] for budget in (BUDGETS[0], *BUDGETS)}
    start_streams(engine, STREAMS, 64, 4000)
    for _ in range(3):
        for budget in BUDGETS:
            engine.token_budget = budget
            prompt, worst = engine.submit(PROMPT, 1), 0.0
            began, step = time.perf_counter(), None
            while step is None or prompt not in step.finished:
                step, seconds = timed_step(engine)
                worst = max(worst, seconds)
            found[budget].append((worst, time.perf_counter() - began))
    return {
        budget: [statistics.median(column) for column in zip(*runs)]
        for budget, runs in found.items()
    }


# --- The widgets ---


def drawing_row() -> Row:
    """Decode steps while a picture of them is drawn and encoded, beside steps undrawn."""
    drawn, undrawn, rate = in_a_fresh_process("drawing")
    return Row(
        f"CPU, decode step of {STREAMS} streams, drawn {rate:.1f} times a second, beside undrawn",
        drawn, undrawn, "s", f"<= {DRAWING_TARGET} times", drawn <= DRAWING_TARGET * undrawn,
        "the engine in its own process, one core left to the notebook",
    )  # fmt: skip


def measure_drawing() -> tuple[float, float, float]:
    """Median step drawn and undrawn, seconds, in turns; and redraws per second."""
    from coursekit.analyzers.tuning import Follower
    from coursekit.live.session import LiveSession
    from coursekit.plots.tuner import TunerPicture
    from coursekit.widgets.chunk_tuner import REDRAW_S, WINDOW_S

    session, picture = LiveSession("torch"), TunerPicture()
    follower = Follower(session.label, 0.1, session.cost, "token-budget", STREAMS)
    session.send("streams", value=STREAMS)
    session.send("go")
    time.sleep(2)
    steps, num_drawn, spent_s = {True: [], False: []}, 0, 0.0
    for turn in range(8):
        place, began, draws = len(session.events), time.perf_counter(), turn % 2 == 0
        taken = place
        while time.perf_counter() - began < 4:
            time.sleep(REDRAW_S)
            events, taken = session.events[taken:], len(session.events)
            for event in events if draws else ():
                follower.take(event)
            if draws:
                picture.update(follower.view, follower.view.ends_s[-1] - WINDOW_S)
                picture.figure.png()
                num_drawn += 1
        spent_s += (time.perf_counter() - began) * draws
        durations = [
            event["end_s"] - event["start_s"]
            for event in session.events[place + 2 :] if event["event"] == "step"
        ]  # fmt: skip
        steps[draws] += durations
    session.close()
    return statistics.median(steps[True]), statistics.median(steps[False]), num_drawn / spent_s


def browser_rows() -> list[Row]:
    slider_s, redraws = in_a_fresh_process("browser")
    return [
        Row("chunk tuner, simulated, in the browser: key to picture, P95", slider_s, None, "s",
            f"<= {SLIDER_TARGET_S} s", slider_s <= SLIDER_TARGET_S,
            "JupyterLab, headless Chromium on the same cores"),
        Row("chunk tuner, live, in the browser: redraws a second", redraws, None, "/s",
            f">= {REDRAWS_TARGET}", redraws >= REDRAWS_TARGET,
            "the engine, JupyterLab and Chromium on the same cores"),
    ]  # fmt: skip


def measure_browser() -> tuple[float, float]:
    """P95 from key to picture, seconds; and redraws per second of a live run."""
    sys.path.insert(0, str(ROOT))
    from tests.browser import chunk_tuner_page

    return chunk_tuner_page.measure()


MEASURES = {
    "batches-torch": lambda: measure_batches("torch"),
    "batches-vllm": lambda: measure_batches("vllm"),
    "turning-torch": lambda: measure_turning("torch"),
    "turning-vllm": lambda: measure_turning("vllm"),
    "drawing": measure_drawing,
    "browser": measure_browser,
}

if __name__ == "__main__":
    main()
