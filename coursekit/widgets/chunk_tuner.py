"""Turn the token budget and see what follows: simulated at once, or live, while it runs.

`ChunkTuner` is the widget, `tuned_scene` the same picture as a plain function. Live, the engine
(our own or vLLM) runs in a process of its own; Stop ends the run within one iteration.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import warnings
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets

from coursekit.analyzers.scene import LEAD, TAIL, play_scene
from coursekit.analyzers.tuning import Follower, PromptRun, TunerView, view_of_scene
from coursekit.live.session import LiveSession
from coursekit.plots import style
from coursekit.plots.tuner import TunerPicture, describe_view
from coursekit.schedulers import NAMES
from coursekit.widgets.canvas import live_canvas
from coursekit.widgets.device_lock import hold_device, release_device, take_device
from coursekit.widgets.for_ears import for_ears

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCES = {"simulated": "simulated", "live torch": "torch", "live vLLM": "vllm"}
BUDGETS = (16, 32, 64, 128, 256, 512, 1024, 2048)
STREAMS = (1, 2, 4, 8)
PROMPTS = (250, 500, 1000, 2000, 4000)
REDRAW_S = 0.15
WINDOW_S = 12.0  # of a live run, what is shown
CONTENTION = 1.5  # median over fastest decode step from which the machine counts as busy
STOP_S = 60.0
RECORDED = "recorded: "  # begins the names of measured devices
ROWS = 5  # of the table of prompts
_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


def tuned_scene(
    source: str = "simulated",
    token_budget: int = 256,
    num_streams: int = 4,
    prompt_length: int = 2000,
    scheduler: str = "token-budget",
    slo_s: float = 0.1,
    hardware: str = "a100",
    model: str | None = None,
) -> Figure:
    """One long prompt among streams, at one token budget, as a picture.

    source: "simulated" (on `hardware`, with the shape `model`, by default llama-2-7b; or on a
    "recorded: …" device), "live torch" or "live vLLM" (here, with the model `model`, by default
    the course's). slo_s: longest gap that is fine. Raises ValueError for a value out of range,
    RuntimeError if the engine fails.
    """
    kind = _known_source(source)
    if kind == "simulated":
        view = _simulate(
            scheduler, token_budget, num_streams, prompt_length, slo_s, hardware,
            model or "llama-2-7b",
        )  # fmt: skip
    else:
        with hold_device("tuned_scene()"):
            view = _play_live(
                kind, model, scheduler, token_budget, num_streams, prompt_length, slo_s
            )
    picture = TunerPicture()
    picture.update(view)
    return picture.figure


def _simulate(
    scheduler, token_budget, num_streams, prompt_length, slo_s, hardware, model
) -> TunerView:
    from coursekit.cost import RooflineCost, recorded_cost

    if hardware.startswith(RECORDED):
        cost = recorded_cost(hardware.removeprefix(RECORDED))
    else:
        cost = RooflineCost(hardware, model)
    with warnings.catch_warnings():  # the label says it
        warnings.simplefilter("ignore")
        run = play_scene(cost, scheduler, token_budget, num_streams, prompt_length)
    view = view_of_scene(run, slo_s, token_budget)
    if run.trace.info["extrapolated"]:
        view.label += ", extrapolated"
    return view


def _play_live(
    kind, model, scheduler, token_budget, num_streams, prompt_length, slo_s
) -> TunerView:
    session = LiveSession(
        kind, model=model, scheduler=scheduler, token_budget=token_budget,
        max_model_len=prompt_length + 2048,
    )  # fmt: skip
    try:
        follower = Follower(session.label, slo_s, session.cost, scheduler, num_streams)
        session.send("streams", value=num_streams)
        session.send("go")
        _wait_for_steps(session, num_streams + LEAD)
        session.send("inject", prompt_length=prompt_length)
        request = session.wait_for("injected", STOP_S)["request"]
        _wait_for(session, lambda event: request in event.get("finished", ()))
        _wait_for_steps(session, len(session.events) + TAIL)
        session.send("pause")
        session.wait_for("stopped", STOP_S)
    finally:
        session.close()
    for event in session.events:
        follower.take(event)
    return follower.view


def _wait_for_steps(session: LiveSession, count: int) -> None:
    while len(session.events) < count:
        session.wait_for("step", STOP_S, after=len(session.events))


def _wait_for(session: LiveSession, found) -> None:
    place = 0
    while True:
        step = session.wait_for("step", STOP_S, after=place)
        place = session.events.index(step, place) + 1
        if found(step):
            return


def _known_source(source: str) -> str:
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    return SOURCES[source]


class ChunkTuner(widgets.VBox):
    """Token budget, streams, prompt length and scheduler; the picture of what they lead to.

    source: "simulated", "live torch" or "live vLLM", what it starts with. model: for the live
    ones, as in `load_model`. slo_s: longest gap that is fine, in seconds.

    Simulated, every change redraws at once. Live, Start starts the engine, the budget may be
    turned and prompts sent while it runs, Stop ends the run. A failure stands in the status
    line, goes to the log and in `error`. view: what is shown.
    Raises ValueError for an unknown source and slo_s <= 0.
    """

    def __init__(
        self, source: str = "simulated", model: str | None = None, slo_s: float = 0.1
    ):
        _known_source(source)
        if not slo_s > 0:
            raise ValueError(f"slo_s must be > 0 seconds, got {slo_s}")
        self.name = f"chunk tuner {next(_numbers)}"
        self.error: Exception | None = None
        self.session: LiveSession | None = None
        self.follower: Follower | None = None
        self.view: TunerView | None = None
        self._model = model
        self._running = threading.Event()
        self._thread: threading.Thread | None = None
        self._build_controls(source, slo_s)
        self.picture = TunerPicture()
        self.canvas = live_canvas(self.picture.figure)
        self.canvas.add_class("coursekit-canvas")
        rows = [
            widgets.HBox([self.source, self.scheduler, self.hardware, self.shape]),
            widgets.HBox([self.streams, self.prompt, self.slo]),
            widgets.HBox([self.budget, self.slider]),
            widgets.HBox([self.start, self.stop, self.inject]),
        ]
        self._closed = False
        super().__init__([*rows, self.status, self.readout, self.picture_text, self.canvas])
        self.add_class("coursekit-chunk-tuner")
        self._on_source()

    # --- What is on the page ---

    def _build_controls(self, source: str, slo_s: float) -> None:
        from coursekit.cost import DEVICES, profiles
        from coursekit.models import SHAPES

        devices = [*DEVICES, *(RECORDED + name for name in profiles())]
        menu, wide = widgets.Dropdown, {"description_width": "initial"}
        narrow = {"layout": {"width": "215px"}, "style": wide}
        self.source = menu(description="Source", options=list(SOURCES), value=source, **narrow)
        self.scheduler = menu(
            description="Scheduler", options=list(NAMES), value="token-budget",
            layout={"width": "230px"}, style=wide,
        )  # fmt: skip
        self.hardware = menu(
            description="Device", options=devices, value="a100", **narrow
        )
        self.shape = menu(
            description="Model", options=list(SHAPES), value="llama-2-7b",
            layout={"width": "210px"}, style=wide,
        )  # fmt: skip
        self.streams = menu(description="Streams", options=STREAMS, value=4, **narrow)
        self.prompt = menu(
            description="Long prompt", value=PROMPTS[-2], **narrow,
            options=[(f"{style.format_count(n)} tokens", n) for n in PROMPTS],
        )  # fmt: skip
        self.slo = widgets.BoundedFloatText(
            description="SLO for a gap, ms", value=1e3 * slo_s, min=1, max=60_000, step=10,
            layout={"width": "230px"}, style=wide,
        )  # fmt: skip
        options = [(f"{style.format_count(n)} tokens", n) for n in BUDGETS]
        self.slider = widgets.SelectionSlider(
            options=options, value=256, readout=False, continuous_update=True,
            layout={"width": "420px"},
        )  # fmt: skip
        # the slider's handle can't be named for screen readers; this menu is, and does the same
        self.budget = menu(
            description="Token budget", options=options, value=256, style=wide,
            layout={"width": "210px"}, tooltip="most tokens of one iteration",
        )  # fmt: skip
        widgets.link((self.slider, "value"), (self.budget, "value"))
        self._build_buttons()
        for part in (self.source, self.scheduler, self.hardware, self.shape, self.streams,
                     self.prompt, self.slo, self.slider):  # fmt: skip
            part.observe(self._on_change, names="value")

    def _build_buttons(self) -> None:
        def button(text: str, icon: str, tip: str, action) -> widgets.Button:
            made = widgets.Button(description=text, icon=icon, tooltip=tip, disabled=True)
            made.on_click(lambda _: self._guard(action))
            return made

        self.start = button("Start", "play", "Start the live engine", self._on_start)
        self.stop = button("Stop", "stop", "Stop after the present iteration", self._on_stop)
        self.inject = button(
            "Send a long prompt", "paper-plane", "Let a long prompt arrive now", self._on_inject
        )
        self.inject.layout.width = "190px"
        self.status, self.readout, self.picture_text = (widgets.HTML() for _ in range(3))
        names = ("slider", "budget", "start", "stop", "inject", "status", "readout", "source")
        for name in names:
            getattr(self, name).add_class(f"coursekit-{name}")

    # --- What happens when something is turned ---

    def _guard(self, action, *arguments) -> None:
        """Run `action`; what it raises is shown, logged and kept."""
        try:
            action(*arguments)
        except Exception as error:
            self._show_error(error)

    def _on_change(self, change) -> None:
        owner = change["owner"]
        if owner is self.source:
            self._guard(self._on_source)
        elif self.source.value == "simulated":
            self._guard(self._redraw_simulated)
        elif self._running.is_set():
            self._guard(self._turn, owner)

    def _on_source(self) -> None:
        """Another source: stop what ran, show what the new one needs."""
        self._end_session()
        simulated = self.source.value == "simulated"
        for part in (self.hardware, self.shape):
            part.layout.display = None if simulated else "none"
        self.start.disabled = simulated
        self.stop.disabled = self.inject.disabled = True
        if simulated:
            self._redraw_simulated()
        else:
            self._say("press Start: the engine starts in a process of its own (10 to 60 s)")

    def _redraw_simulated(self) -> None:
        began, self.error = time.perf_counter(), None
        view = _simulate(
            self.scheduler.value, self.slider.value, self.streams.value, self.prompt.value,
            self.slo.value / 1e3, self.hardware.value, self.shape.value,
        )  # fmt: skip
        self._show(view)
        self._say(f"simulated in {style.format_seconds(time.perf_counter() - began)}")

    def _turn(self, owner) -> None:
        """Pass a turned control on to the engine that runs."""
        if owner is self.slider:
            self.session.send("budget", value=self.slider.value)
        elif owner is self.streams:
            self.session.send("streams", value=self.streams.value)
            self.follower.num_streams = self.streams.value
        elif owner is self.slo:
            self.follower.view.slo_s = self.slo.value / 1e3
        elif owner is self.scheduler:
            self._say("the new scheduler counts from the next Start")

    # --- A live run ---

    def _on_start(self) -> None:
        self.error, holder = None, take_device(self.name)
        if holder is not None:
            raise RuntimeError(f"{holder} holds this device; stop it there first")
        self.start.disabled = True
        self._running.set()
        self._thread = threading.Thread(target=self._live, name=self.name, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        """Start the engine if there is none, follow it until it is stopped."""
        try:
            self._guard(self._run)
        finally:
            self._running.clear()
            release_device()
            if not self._closed:
                self.stop.disabled = self.inject.disabled = True
                self.start.disabled = self.source.value == "simulated"

    def _run(self) -> None:
        session = self._ready_session()
        follower = self.follower = Follower(
            session.label, self.slo.value / 1e3, session.cost, self.scheduler.value,
            self.streams.value,
        )  # fmt: skip
        place = len(session.events)
        session.send("budget", value=self.slider.value)
        session.send("streams", value=self.streams.value)
        session.send("go")
        self.stop.disabled = self.inject.disabled = False
        self._say_running(session)
        while self._running.is_set() and session.is_alive and not session.error:
            place = self._follow(session, follower, place)
            time.sleep(REDRAW_S)
        if session.error or not session.is_alive:
            self._close_session()
            raise RuntimeError(
                session.error or f"the engine's process ended; its log:\n{session.log()}"
            )
        session.send("pause")
        session.wait_for("stopped", STOP_S, after=place)
        self._follow(session, follower, place)
        self._say(f"stopped after {len(follower.view.ends_s)} iterations; Start runs it again")

    def _follow(self, session: LiveSession, follower: Follower, place: int) -> int:
        """Take what has come and show it; return how many events that makes."""
        events, waiting = session.events[place:], follower.num_prompts_on_their_way
        for event in events:
            follower.take(event)
            if event["event"] == "refused":
                self._say(f"⚠ {event['message']}", role="alert")
        if follower.num_prompts_on_their_way < waiting:
            self._say(_said_of(follower.view.prompts))
        if events:
            latest = follower.view.ends_s[-1] if follower.view.ends_s else 0.0
            self._show(follower.view, latest - WINDOW_S)
        return place + len(events)

    def _ready_session(self) -> LiveSession:
        wanted = (SOURCES[self.source.value], self.scheduler.value)
        if self.session is not None and self.session.wanted != wanted:
            self._close_session()
        if self.session is None:
            self._say(f"starting {self.source.value} … (10 to 60 s)")
            session = LiveSession(
                wanted[0], model=self._model, scheduler=wanted[1], max_token_budget=BUDGETS[-1],
                max_model_len=2 * PROMPTS[-1], max_num_seqs=2 * STREAMS[-1],
            )  # fmt: skip
            session.wanted = wanted
            self.session = session
        return self.session

    def _say_running(self, session: LiveSession) -> None:
        if session.contention > CONTENTION:
            self._say(
                f"⚠ this machine is busy with something else: a decode step took "
                f"{session.contention:.1f} times the fastest. Close it, or the gaps you see "
                "are not the engine's", role="alert",
            )  # fmt: skip
        else:
            self._say(f"running, {session.label}; turn the budget, send a long prompt")

    def _on_stop(self) -> None:
        self._running.clear()

    def _on_inject(self) -> None:
        self.session.send("inject", prompt_length=self.prompt.value)

    def wait(self, timeout: float = 120.0) -> None:
        """Block until the live run has ended. Raises TimeoutError, and what the run raised."""
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"{self.name} still runs after {timeout} s")
        if self.error is not None:
            raise self.error

    def _end_session(self) -> None:
        self._running.clear()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_S)
        self._close_session()

    def _close_session(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def close(self) -> None:
        """Stop, end the engine's process, and take the widget off the page."""
        if getattr(self, "_closed", True):  # closed already, or the constructor failed
            return
        self._closed = True
        self._end_session()
        self.canvas.close()
        super().close()

    # --- What the learner gets to see ---

    def _say(self, text: str, role: str = "status") -> None:
        if not self._closed:
            self.status.value = f'<div role="{role}" style="font-size: 1.1em">{escape(text)}</div>'

    def _show_error(self, error: Exception) -> None:
        self.error = error
        _log.error("%s failed", self.name, exc_info=error)
        self._say(f"⚠ {type(error).__name__}: {error}", role="alert")

    def _show(self, view: TunerView, from_s: float | None = None) -> None:
        if self._closed:
            return
        self.view = view
        with self.canvas.lock:
            self.picture.update(view, from_s)
            self.canvas.draw_idle()
        self.readout.value = _readout(view)
        self.picture_text.value = for_ears(describe_view(view))


def _readout(view: TunerView) -> str:
    """The numbers of a view, and its last prompts as a table, as HTML."""
    seconds = style.format_seconds
    numbers = [
        ("usual gap", seconds(view.usual_gap_s)),
        ("worst gap", seconds(view.worst_gap_s)),
        ("gaps over the SLO", f"{view.num_over_slo:,} of {len(view.gaps_s):,}"),
    ]
    cells = "".join(
        f'<div style="margin-right: 2em">{name}<br>'
        f'<strong style="font-size: 1.5em">{value}</strong></div>'
        for name, value in numbers
    )
    look = "display: flex; flex-wrap: wrap; font-size: 1.1em; line-height: 1.4; white-space: nowrap"
    return f'<div style="{look}">{cells}{_table(view.prompts[-ROWS:])}</div>'


def _table(prompts: list[PromptRun]) -> str:
    """Prompts, the newest last: what was measured, and in brackets what was predicted."""
    heads = ("long prompt", "budget", "worst gap", "TTFT")
    rows = [
        (
            f"{style.format_count(prompt.prompt_length)} tokens", f"{prompt.token_budget}",
            _beside(prompt.worst_gap_s, prompt.predicted_gap_s),
            _beside(prompt.ttft_s, prompt.predicted_ttft_s),
        )
        for prompt in prompts
    ]  # fmt: skip
    cell = '<{0} style="text-align: left; padding: 0 1em 0 0; font-weight: normal">{1}</{0}>'
    lines = [[cell.format("th", text) for text in heads]]
    lines += [[cell.format("td", text) for text in row] for row in rows]
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<table style="font-size: 1em">{body}</table>' if rows else ""


def _beside(measured: float, predicted: float) -> str:
    text = f"<strong>{style.format_seconds(measured)}</strong>"
    if predicted == predicted:
        text += f" (predicted {style.format_seconds(predicted)})"
    return text


def _said_of(prompts: list[PromptRun]) -> str:
    """What the status line says of the prompt that came through last."""
    prompt = [each for each in prompts if each.ttft_s == each.ttft_s][-1]
    return (
        f"{style.format_count(prompt.prompt_length)} tokens at a budget of "
        f"{prompt.token_budget}: TTFT {style.format_seconds(prompt.ttft_s)}, worst gap of a "
        f"stream {style.format_seconds(prompt.worst_gap_s)}"
    )
