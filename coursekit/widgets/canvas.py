"""An ipympl canvas for one figure, made without the magic `%matplotlib widget`.

So a live picture can stand in a notebook whose other figures stay plain images. One lock
guards the figure: the kernel answers the browser's messages on another thread than the one
that runs cells or measures, and Matplotlib must not draw what is just being changed.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

import matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _import_ipympl():
    """Import ipympl and undo what its import does: it makes itself the default backend."""
    before = matplotlib.get_backend(auto_select=False)
    from ipympl import backend_nbagg

    if matplotlib.get_backend(auto_select=False) != before:
        matplotlib.use(before or "agg")
    return backend_nbagg


_backend = _import_ipympl()


class LiveCanvas(_backend.Canvas):
    """A canvas whose `lock` is held while it draws or handles a message of the browser.

    Whoever changes the figure holds `lock` meanwhile and calls `draw_idle` at the end: the
    browser then asks for the new picture.
    """

    def __init__(self, figure: Figure):
        self.lock = threading.RLock()
        super().__init__(figure)

    def draw(self) -> None:
        with self.lock:
            super().draw()

    def _handle_message(self, widget, content, buffers) -> None:
        with self.lock:
            super()._handle_message(widget, content, buffers)


def live_canvas(figure: Figure) -> LiveCanvas:
    """A canvas that shows `figure` and nothing around it; unknown to pyplot."""
    canvas = LiveCanvas(figure)
    with warnings.catch_warnings():  # ipympl hands its toolbar more than traitlets likes
        warnings.simplefilter("ignore", DeprecationWarning)
        _backend.FigureManager(canvas, 0)
    canvas.header_visible = False
    canvas.footer_visible = False
    canvas.toolbar_visible = False
    canvas.resizable = False
    canvas.capture_scroll = False
    return canvas
