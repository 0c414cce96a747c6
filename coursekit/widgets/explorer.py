"""What the explorers share: controls, a status line, words for every picture, a live figure.

A move is answered at once, on the thread that brings it: an explorer computes little or
nothing. Widgets that measure a device work otherwise; see `chunk_timeline`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets

from coursekit.plots import style
from coursekit.widgets.canvas import LiveCanvas, live_canvas
from coursekit.widgets.for_ears import for_ears

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class Overlay:
    """Draws `layers` of artists over a kept picture of all others, which seldom change.

    layers: what changes seldom first, what changes with every move last. A text takes
    Matplotlib a millisecond, so that a whole figure is too slow to follow a slider. The
    picture is kept anew whenever the whole figure is drawn, also when the browser asks for it.
    Hold the canvas's lock to call `draw`.
    """

    def __init__(self, canvas: LiveCanvas, layers: Sequence[Sequence[Artist]]):
        self._canvas, self._layers = canvas, layers
        self._pictures, self._renderer = [], None  # what lies below each layer; drawn by whom
        for layer in layers:
            for artist in layer:
                artist.set_animated(True)  # left out when the whole figure is drawn
        self._connection = canvas.mpl_connect("draw_event", self._keep)

    def draw(self, layer: int = 0) -> None:
        """Show what has changed in this layer and those above it, and nothing else."""
        canvas = self._canvas
        if self._renderer is not canvas.get_renderer():  # another size or resolution by now
            canvas.draw()
            return
        canvas.restore_region(self._pictures[layer])
        del self._pictures[layer:]
        self._draw_from(layer)
        canvas.blit()

    def close(self) -> None:
        """Keep nothing and listen no more."""
        self._canvas.mpl_disconnect(self._connection)
        self._pictures, self._renderer = [], None

    def _keep(self, _event) -> None:
        self._pictures, self._renderer = [], self._canvas.get_renderer()
        self._draw_from(0)

    def _draw_from(self, first: int) -> None:
        figure = self._canvas.figure
        for layer in self._layers[first:]:
            self._pictures.append(self._canvas.copy_from_bbox(figure.bbox))
            for artist in layer:
                figure.draw_artist(artist)


class Explorer(widgets.VBox):
    """Base of the explorers: `rows` of controls above the words and the figure.

    watched: the controls whose values `_update` reads; others may be linked to them. layers:
    the artists that it may change, see `Overlay`. A failure of a move stands in the status
    line, goes to the log and stays in `error` until a move succeeds; one on construction is
    raised.
    """

    kind = "explorer"

    def __init__(
        self,
        rows: Sequence[Sequence[widgets.Widget]],
        watched: Sequence[widgets.Widget],
        figure: Figure,
        layers: Sequence[Sequence[Artist]],
    ):
        self.name = f"{self.kind} {next(_numbers)}"
        self.error: Exception | None = None
        self.figure, self.canvas = figure, live_canvas(figure)
        self._overlay = Overlay(self.canvas, layers)
        self._quiet = self._closed = False
        self._stale = True  # the canvas may not show the figure as it is
        self.status, self.readout, self.picture_text = (widgets.HTML() for _ in range(3))
        boxes = [widgets.HBox(list(row), layout={"flex_flow": "row wrap"}) for row in rows]
        words = [self.status, self.readout, self.picture_text]
        self._parts = [*(control for row in rows for control in row), *boxes, *words]
        super().__init__([*boxes, *words, self.canvas])
        self._name_parts()
        try:
            self._answer()
        except BaseException:  # an interrupt too: nothing half-made stays on the page
            self.close()
            raise
        for control in watched:
            control.observe(self._on_move, names="value")

    def _name_parts(self) -> None:
        """Classes by which a page finds them."""
        self.add_class(f"coursekit-{self.kind.replace(' ', '-')}")
        for part, name in (
            (self.status, "status"), (self.readout, "readout"),
            (self.picture_text, "picture-text"), (self.canvas, "canvas"),
        ):  # fmt: skip
            part.add_class(f"coursekit-{name}")

    def _update(self) -> tuple[int, str, str, str]:
        """Bring the figure to what the controls say.

        Returns the lowest layer that changed, the status line, the readout as HTML, and the
        description of the figure.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Take the widget off the page and release its figure; harmless when called twice."""
        if getattr(self, "_closed", True):  # or the constructor refused its arguments
            return
        self._closed = True
        self._overlay.close()
        for part in self._parts:
            part.unobserve_all()  # the links between controls, too
            _close_with_looks(part)
        _close_with_looks(self.canvas.manager.toolbar)
        _close_with_looks(self.canvas)
        self.figure.clear()
        self.layout.close()
        super().close()

    def _on_move(self, change) -> None:
        """Answer a control. Nothing is raised: there is no cell that could show it."""
        if self._quiet or self._closed:  # several values are being set, or nobody looks
            return
        try:
            self._answer()
        except Exception as error:
            self.error = error
            _log.error("%s could not follow a move", self.name, exc_info=error)
            text = f"⚠ not shown: {type(error).__name__}: {error} (the picture is an earlier one)"
            self._say(text, role="alert")

    def _answer(self) -> None:
        with self.canvas.lock:
            was_stale, self._stale = self._stale, True
            layer, status, readout, description = self._update()
            style.describe(self.figure, description)
            if was_stale:
                self.canvas.draw()
            else:
                self._overlay.draw(layer)
            self._stale = False
        self.readout.value = f'<div aria-live="polite" style="{_READOUT_LOOK}">{readout}</div>'
        self.picture_text.value = for_ears(description)
        self.error = None
        self._say(status)

    def _say(self, text: str, role: str = "status") -> None:
        self.status.value = f'<div role="{role}" style="font-size: 1.1em">{escape(text)}</div>'


_READOUT_LOOK = "font-size: 1.2em; line-height: 1.5"


def _close_with_looks(part: widgets.Widget) -> None:
    """Close a widget and the two models beside it, which ipywidgets would keep."""
    for name in ("layout", "style"):
        beside = getattr(part, name, None)
        if isinstance(beside, widgets.Widget):
            beside.close()
    part.close()
