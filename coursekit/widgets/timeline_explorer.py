"""Walk through a record iteration by iteration: one run, or two schedulers at the same moment.

`TimelineExplorer` is the widget; the same picture as a plain function is `gantt` or
`compare_traces` of `coursekit.plots.gantt`. It reads records and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets

from coursekit.plots.gantt import WINDOW, Gantt
from coursekit.trace import Trace
from coursekit.widgets.explorer import Explorer

_WINDOWS = (20, 60, 200)


class TimelineExplorer(Explorer):
    """A slider over the iterations of a trace, what each ran in words, and the Gantt chart.

    traces: a `Trace`, or two of one workload: the other shows what it ran at the same moment.
    names: a title for each, the scheduler's name unless given. window: iterations in the
    picture, 1..1000.
    Raises ValueError for no trace or more than two, a trace without iterations, other than a
    name for each, or a window out of range.
    """

    kind = "timeline explorer"

    def __init__(
        self,
        traces: Trace | Sequence[Trace],
        names: Sequence[str] | None = None,
        window: int = WINDOW,
    ):
        traces = [traces] if isinstance(traces, Trace) else list(traces)
        self.gantt = Gantt(traces, names, window)
        self._walked = 0  # the trace whose iterations the slider counts
        self._build_controls()
        rows = [[self.slider, self.number], [self.walked, self.zoom]]
        if len(traces) == 1:
            self.walked.layout.display = "none"
        widgets.link((self.slider, "value"), (self.number, "value"))
        watched = [self.slider, self.zoom, self.walked]
        super().__init__(rows, watched, self.gantt.figure, self.gantt.layers)

    def _build_controls(self) -> None:
        last = self.gantt.replays[0].num_iterations - 1
        self.slider = widgets.IntSlider(
            description="Iteration", min=0, max=last, value=0, readout=False,
            style={"description_width": "initial"}, layout={"width": "560px"},
        )  # fmt: skip
        # The slider has no name for screen readers; a number field has: its description.
        self.number = widgets.BoundedIntText(
            description="Go to iteration", min=0, max=last, value=0,
            style={"description_width": "initial"}, layout={"width": "210px"},
        )  # fmt: skip
        sizes = sorted({*_WINDOWS, self.gantt.window})
        self.zoom = widgets.Dropdown(
            description="Iterations in the picture", options=sizes, value=self.gantt.window,
            style={"description_width": "initial"}, layout={"width": "250px"},
        )  # fmt: skip
        self.walked = widgets.Dropdown(
            description="Walk through", value=0,
            options=[(name, number) for number, name in enumerate(self.gantt.names)],
            style={"description_width": "initial"}, layout={"width": "380px"},
        )  # fmt: skip
        for part, name in (
            (self.slider, "slider"), (self.number, "number"), (self.zoom, "zoom"),
            (self.walked, "walked"),
        ):
            part.add_class(f"coursekit-{name}")

    def _update(self) -> tuple[int, str, str, str]:
        gantt, walked = self.gantt, self.walked.value
        if walked != self._walked:
            self._walk_through(walked)
        gantt.window = self.zoom.value
        moved = gantt.show(self.slider.value, walked)
        layer = 0 if moved else 1
        readout = "".join(
            f"<p><strong>{escape(name)}</strong>: {escape(what)}</p>"
            for name, what in zip(gantt.names, gantt.sentences())
        )
        return layer, gantt.provenance, readout, gantt.describe()

    def _walk_through(self, walked: int) -> None:
        """Let the slider count another trace's iterations, and stay at the same moment."""
        replay = self.gantt.replays[walked]
        place = max(0, replay.at(self.gantt.moment_s)[0])
        self._quiet = True
        try:
            for control in (self.slider, self.number):
                control.max = replay.num_iterations - 1
            self.slider.value = place
        finally:
            self._quiet = False
        self._walked = walked
