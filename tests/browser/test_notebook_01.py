"""Notebook 01 as a learner has it: the real JupyterLab, the real model, a real browser."""

import shutil
from pathlib import Path

import psutil
import pytest

from tests.browser import jupyterlab as lab

SCREENSHOTS = Path(__file__).parent / "screenshots"
WIDGET = ".coursekit-chunk-timeline"
RUN_TIMEOUT_S = 300.0
MEASURE_TIMEOUT_S = 60.0


@pytest.fixture
def notebooks(course_root, tmp_path) -> Path:
    """A copy of the notebooks, so that what is saved here does not touch the originals."""
    return Path(shutil.copytree(course_root / "notebooks", tmp_path / "notebooks"))


class Widget:
    """The chunk-size widget as it is on the page."""

    def __init__(self, page):
        self.page = page

    def press(self, key: str) -> None:
        """Press a key on the slider and wait until the status line reports a new measurement."""
        before = self.state()
        self.page.locator(f"{WIDGET} [role=slider]").focus()
        self.page.keyboard.press(key)
        self.page.wait_for_function(
            """([widget, numbers]) =>
                document.querySelector(widget + ' .coursekit-readout').innerText !== numbers
                && document.querySelector(widget + ' .coursekit-status').innerText
                    .startsWith('measured')""",
            arg=[WIDGET, before["numbers"]], timeout=MEASURE_TIMEOUT_S * 1000,
        )  # fmt: skip
        self.page.wait_for_function(
            """([widget, pixels]) =>
                document.querySelector(widget + ' canvas').toDataURL() !== pixels""",
            arg=[WIDGET, before["pixels"]], timeout=MEASURE_TIMEOUT_S * 1000,
        )  # fmt: skip

    def state(self) -> dict[str, str]:
        """What can be seen: the numbers, the size chosen, and the picture's pixels."""
        return {
            "numbers": self.page.locator(f"{WIDGET} .coursekit-readout").inner_text(),
            "size": self.page.locator(f"{WIDGET} select").input_value(),
            "pixels": lab.canvas_pixels(self.page, WIDGET),
        }

    def worst_gap_s(self) -> float:
        shown = self.page.locator(f"{WIDGET} .coursekit-readout strong").first.inner_text()
        value, unit = shown.split()
        return float(value) * {"s": 1.0, "ms": 1e-3}[unit]


def test_notebook_01_runs_and_its_slider_measures(notebooks, tmp_path):
    chromium = lab.find_chromium()
    name = next(path.name for path in sorted(notebooks.glob("01_*.ipynb")))
    page_errors = []
    with (
        lab.running_server(notebooks, tmp_path / "jupyter") as server,
        lab.browser_page(chromium) as page,
    ):
        page.on("pageerror", lambda error: page_errors.append(str(error)))
        lab.open_notebook(page, server, name)
        lab.run_all(page)
        lab.wait_until_done(page, RUN_TIMEOUT_S)
        assert lab.error_outputs(page) == []
        assert lab.unrun_cells(page) == []
        lab.scroll_to_cell(page, lab.find_cell(page, "ChunkTimeline("))
        page.wait_for_selector(f"{WIDGET} canvas")
        use_the_slider(page)
        processes = psutil.Process(server.pid).children(recursive=True)
    assert processes, "a kernel ran"
    assert not [process for process in processes if process.is_running()]
    assert page_errors == []


def use_the_slider(page) -> None:
    """Move it with the keyboard; picture, numbers and their meaning must follow."""
    widget = Widget(page)
    start = widget.state()
    widget.press("ArrowLeft")
    moved = widget.state()
    assert all(moved[what] != start[what] for what in ("numbers", "size", "pixels"))
    widget.press("Home")
    smallest_gap_s = widget.worst_gap_s()
    widget.press("End")
    assert "whole prompt" in widget.state()["size"]
    assert widget.worst_gap_s() > 2 * smallest_gap_s
    widget.press("ArrowLeft")
    page.screenshot(path=SCREENSHOTS / "notebook_01.png")
    page.locator(WIDGET).screenshot(path=SCREENSHOTS / "chunk_timeline.png")
