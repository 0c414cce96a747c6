"""The live canvas: it shows one figure and changes nothing for the others."""

import os
import subprocess
import sys
import threading

import pytest

from coursekit.plots import style
from coursekit.widgets.canvas import live_canvas


@pytest.mark.parametrize("before", ["import matplotlib; ", "import matplotlib.pyplot; ", ""])
def test_other_figures_keep_their_backend(before):
    code = f"{before}import coursekit.widgets.canvas, matplotlib; print(matplotlib.get_backend())"
    environment = {**os.environ, "MPLBACKEND": "svg"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "svg"


def test_the_canvas_shows_the_figure_without_tools_around_it():
    figure = style.new_figure(4, 2)
    canvas = live_canvas(figure)
    assert canvas.figure is figure and figure.canvas is canvas
    assert canvas.toolbar_visible is False and canvas.header_visible is False
    canvas.close()


@pytest.mark.parametrize("message", [{"type": "draw"}, {"type": "resize", "width": 300}])
def test_the_browser_waits_while_somebody_changes_the_figure(message):
    canvas = live_canvas(style.new_figure(4, 2))
    answered = threading.Event()

    def browser_asks():
        canvas._handle_message(canvas, message, [])
        answered.set()

    with canvas.lock:
        threading.Thread(target=browser_asks).start()
        assert not answered.wait(0.2)
    assert answered.wait(10)
    canvas.close()
