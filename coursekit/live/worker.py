"""A live engine in a process of its own: `python -m coursekit.live.worker`.

A notebook's kernel draws, answers the browser and runs cells; an engine beside it would wait for
all of that. Commands come as JSON lines on standard input, events leave as JSON lines on what
was standard output; see `session`, which holds the other end. When the input ends, because the
kernel is gone, the process ends too, at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from statistics import median

from coursekit.cost.calibrated import CalibratedCost
from coursekit.cost.measure import Scene, measure_engine
from coursekit.live.base import LiveEngine, Step

STREAM_CONTEXT = 64  # tokens that a stream has behind it when it begins
WARM_UP, NUM_STEPS = 4, 12  # decode steps before calibration, and of it
# Streams, context of each, chunk size and prompt length of what is measured for a prediction.
CALIBRATION = ((4, 64, 60, 240), (2, 512, 16, 64), (1, 256, 250, 1000), (1, 64, 1000, 2000))


class Worker:
    """Steps an engine as commands say, and reports each iteration.

    emit: takes an event, a dict of plain values. Streams are requests that decode for as long
    as they can; one that ends is followed by a new one.
    """

    def __init__(self, emit: Callable[[dict], None]):
        self._emit = emit
        self.engine: LiveEngine | None = None
        self.running = False
        self.num_streams = 0
        self._streams: set[int] = set()

    def obey(self, do: str, **arguments) -> None:
        """Carry out a command. What a running engine can't do is refused, and it runs on."""
        try:
            getattr(self, do)(**arguments)
        except ValueError as error:
            if self.engine is None:
                raise
            self._emit({"event": "refused", "message": str(error)})

    # --- Commands, each named as it comes in ---

    def start(self, **options) -> None:
        """Build the engine, find out how fast it is here, and say that it is ready."""
        self.engine = build_engine(**options)
        steps_s = self._decode_steps_s()
        self._emit({
            "event": "ready", "label": self.engine.label, "pid": os.getpid(),
            "max_token_budget": self.engine.max_token_budget,
            "decode_step_s": median(steps_s), "contention": median(steps_s) / min(steps_s),
            "profile": self._calibrate(),
        })  # fmt: skip

    def go(self) -> None:
        """Step from now on."""
        self.running = True

    def pause(self) -> None:
        """Stop after the present iteration, and drop all requests."""
        self.running = False
        for index in list(self.engine.requests):
            self.engine.cancel(index)
        self._streams.clear()
        self._emit({"event": "stopped", "now_s": self.engine.now_s()})

    def budget(self, value: int) -> None:
        """Turn the token budget; it counts from the next iteration."""
        self.engine.token_budget = value
        self._emit({"event": "budget", "value": value, "now_s": self.engine.now_s()})

    def streams(self, value: int) -> None:
        """Keep this many streams decoding."""
        self.num_streams = value
        while len(self._streams) > value:
            index = max(self._streams)
            self._streams.remove(index)
            self.engine.cancel(index)

    def inject(self, prompt_length: int, max_tokens: int = 1) -> None:
        """Let a prompt of random tokens arrive."""
        index = self.engine.submit(prompt_length, max_tokens)
        arrival_s = self.engine.requests[index].arrival_s
        self._emit({
            "event": "injected", "request": index, "prompt_length": prompt_length,
            "arrival_s": arrival_s,
        })  # fmt: skip

    # --- Work ---

    def work(self) -> bool:
        """Run one iteration, if there is anything to run; say whether there was."""
        if not self.running:
            return False
        while len(self._streams) < self.num_streams:
            self._streams.add(self._new_stream())
        if not self.engine.has_requests:
            return False
        step = self.engine.step()
        if step is not None:
            self._streams.difference_update(step.finished)
            self._emit(_event(step, self.engine.token_budget))
        return step is not None

    def _new_stream(self) -> int:
        length = self.engine.max_model_len
        context = min(STREAM_CONTEXT, length // 2)
        return self.engine.submit(context, length - context)

    def _calibrate(self) -> dict:
        """A cost fitted to a few short scenes, as plain values; see `cost.calibrated.Profile`."""
        engine, budget = self.engine, self.engine.token_budget
        most, longest = engine.max_token_budget, engine.max_model_len - 64
        todo = [
            Scene(n, context, min(size, most - n), min(length, longest))
            for n, context, size, length in CALIBRATION
        ]
        cost = CalibratedCost.fit(
            measure_engine(engine, todo, rounds=1), "this model", engine.label, "now"
        )
        engine.token_budget = budget
        engine.restart_clock()
        return asdict(cost.profile)

    def _decode_steps_s(self) -> list[float]:
        """Seconds of decode steps of one stream; the first ones, which pay for code paths, not."""
        engine = self.engine
        index = engine.submit(16, WARM_UP + NUM_STEPS + 2)
        steps_s = [engine.step().duration_s for _ in range(WARM_UP + NUM_STEPS)]
        engine.cancel(index)
        return steps_s[WARM_UP:]


def _event(step: Step, token_budget: int) -> dict:
    return {
        "event": "step", "start_s": step.start_s, "end_s": step.end_s,
        "prefill": step.num_prefill_tokens, "decode": step.num_decode_tokens,
        "tokens": list(step.tokens), "finished": list(step.finished), "budget": token_budget,
    }  # fmt: skip


def build_engine(
    kind: str,
    model: str | None = None,
    scheduler: str = "token-budget",
    token_budget: int = 256,
    max_token_budget: int = 2048,
    max_num_seqs: int = 16,
    max_model_len: int = 4096,
    num_threads: int | None = None,
    device: str | None = None,
) -> LiveEngine:
    """The engine called `kind`: "torch" or "vllm". Raises ValueError for another."""
    if kind == "torch":
        return _torch_engine(
            model, scheduler, max_token_budget, max_num_seqs, max_model_len, num_threads, device,
            token_budget,
        )  # fmt: skip
    if kind != "vllm":
        raise ValueError(f"an engine is 'torch' or 'vllm', got {kind!r}")
    from coursekit.live.vllm_engine import VllmEngine

    own = None if scheduler == "token-budget" else scheduler
    engine = VllmEngine(
        model, max_token_budget=max_token_budget, max_num_seqs=max_num_seqs,
        max_model_len=max_model_len, scheduler=own, num_threads=num_threads,
    )  # fmt: skip
    engine.token_budget = token_budget
    return engine


def _torch_engine(
    model, scheduler, max_token_budget, max_num_seqs, max_model_len, num_threads, device, budget
) -> LiveEngine:
    import torch

    from coursekit.live.torch_engine import TorchEngine
    from coursekit.models import load_model
    from coursekit.simulate import make_scheduler

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    policy = make_scheduler(scheduler, token_budget=max_token_budget, max_num_seqs=max_num_seqs)
    loaded = load_model(model, device)
    longest = min(max_model_len, loaded.config.max_position_embeddings)
    engine = TorchEngine(loaded, policy, longest)
    engine.token_budget = budget
    return engine


def main() -> None:
    """Serve commands until the input ends."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever prints, prints to the log

    def emit(event: dict) -> None:
        events.write(json.dumps(event) + "\n")

    commands: queue.Queue[dict] = queue.Queue()
    threading.Thread(target=_read, args=(commands,), daemon=True).start()
    worker, idle = Worker(emit), True
    while True:
        try:
            while (command := _next(commands, wait=idle)) is not None:
                idle = False
                worker.obey(**command)
            idle = not worker.work()
        except Exception as error:
            traceback.print_exc()
            worker.running, idle = False, True
            emit({"event": "error", "message": f"{type(error).__name__}: {error}"})


def _read(commands: queue.Queue) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)  # nobody is left to work for; do not wait for the iteration


def _next(commands: queue.Queue, wait: bool) -> dict | None:
    """The next command; without `wait`, None if there is none."""
    try:
        return commands.get(block=wait)
    except queue.Empty:
        return None


if __name__ == "__main__":
    main()
