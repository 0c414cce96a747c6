"""The chunk tuner as it is on a JupyterLab page: its controls, its numbers, its speed.

For the test, and for the benchmark of the live engine, which calls `measure`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import nbformat
import psutil

from tests.browser import jupyterlab as lab

WIDGET = ".coursekit-chunk-tuner"
CELL = "from coursekit import ChunkTuner\n\ntuner = ChunkTuner()\ntuner"
START_TIMEOUT_S = 180.0
PROMPT_TIMEOUT_S = 120.0


def write_notebook(folder: Path) -> Path:
    """A notebook with the tuner in its only cell."""
    folder.mkdir(exist_ok=True)
    path = folder / "tuner.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)]), path)
    return path


def open_tuner(page, server, name: str) -> Tuner:
    """Open the notebook, run it, and wait until the tuner is there."""
    lab.open_notebook(page, server, name)
    lab.run_all(page)
    lab.wait_until_done(page, START_TIMEOUT_S)
    assert lab.error_outputs(page) == []
    page.wait_for_selector(f"{WIDGET} canvas")
    return Tuner(page)


class Tuner:
    """The widget as it is on the page."""

    def __init__(self, page):
        self.page = page

    def choose(self, name: str, value: str) -> None:
        """Pick `value` in the menu that is called `name`, as with a screen reader."""
        self.page.locator(WIDGET).get_by_label(name, exact=True).select_option(value)

    def click(self, name: str) -> None:
        self.page.locator(f"{WIDGET} .coursekit-{name}").click()

    def wait_enabled(self, name: str, timeout_s: float) -> None:
        self.page.wait_for_selector(
            f"{WIDGET} button.coursekit-{name}:not([disabled])", timeout=timeout_s * 1000
        )

    def status(self) -> str:
        return self.page.locator(f"{WIDGET} .coursekit-status").inner_text()

    def prompts(self) -> list[list[str]]:
        """The table's rows: prompt, budget, worst gap, TTFT."""
        return self.page.evaluate(_READ_PROMPTS, f"{WIDGET} .coursekit-readout tr")

    def send_prompt(self, number: int) -> tuple[float, float]:
        """Send one, the `number`th; return its worst gap and TTFT, in seconds."""
        self.click("inject")
        deadline = time.monotonic() + PROMPT_TIMEOUT_S
        while time.monotonic() < deadline:
            rows = self.prompts()
            if len(rows) == number and not rows[-1][3].startswith("n/a"):
                return seconds(rows[-1][2]), seconds(rows[-1][3])
            self.page.wait_for_timeout(100)
        raise AssertionError(f"no first token after {PROMPT_TIMEOUT_S:g} s: {self.prompts()}")

    def redraws_per_s(self, for_s: float = 3.0) -> float:
        """How often the picture changes; it is looked at in every frame of the browser."""
        return self.page.evaluate(_COUNT_REDRAWS, [f"{WIDGET} canvas", for_s * 1000]) / for_s

    def slide(self, key: str) -> float:
        """Press a key on the slider; seconds until the picture has changed."""
        self.page.locator(f"{WIDGET} [role=slider]").focus()
        return self.page.evaluate(_TIME_REDRAW, [f"{WIDGET} canvas", key]) / 1000


def seconds(text: str) -> float:
    """The first duration of a text such as "374 ms (predicted 341 ms)"."""
    value, unit = text.split()[:2]
    return float(value) * {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[unit]


# All rows at one moment: the table is made anew many times a second, and text that is laid out
# is read a row at a time. Its first row is its head.
_READ_PROMPTS = """selector => [...document.querySelectorAll(selector)].slice(1).map(
    row => [...row.cells].map(cell => cell.textContent.trim()))"""
# To look at the picture must cost little beside drawing it, so a small copy is compared.
_LOOK = """const canvas = document.querySelector(selector);
    const small = new OffscreenCanvas(160, 96).getContext('2d', {willReadFrequently: true});
    const look = () => {
        small.drawImage(canvas, 0, 0, 160, 96);
        return small.getImageData(0, 0, 160, 96).data.reduce(
            (sum, value, place) => (sum * 31 + value * (place % 7 + 1)) % 1000003, 7);
    };"""
_COUNT_REDRAWS = f"""async ([selector, duration]) => {{
    {_LOOK}
    const until = performance.now() + duration;
    let last = look(), count = 0;
    while (performance.now() < until) {{
        await new Promise(requestAnimationFrame);
        const now = look();
        count += now !== last;
        last = now;
    }}
    return count;
}}"""
_TIME_REDRAW = f"""async ([selector, key]) => {{
    {_LOOK}
    const before = look(), began = performance.now();
    document.activeElement.dispatchEvent(
        new KeyboardEvent('keydown', {{key, bubbles: true, cancelable: true}}));
    while (look() === before && performance.now() - began < 20000)
        await new Promise(requestAnimationFrame);
    return performance.now() - began;
}}"""


def workers(server) -> list[psutil.Process]:
    """The engines' processes under this server."""
    family = psutil.Process(server.pid).children(recursive=True)
    return [each for each in family if "coursekit.live.worker" in each.cmdline()]


def slide_there_and_back(tuner: Tuner, times: int = 4) -> list[float]:
    """Seconds from key to picture of every step of the slider, from end to end and back."""
    keys = (["ArrowLeft"] * 4 + ["ArrowRight"] * 7 + ["ArrowLeft"] * 3) * times
    return [tuner.slide(key) for key in keys]


def measure() -> tuple[float, float]:
    """P95 from key to picture, simulated, in seconds; and redraws per second of a live run."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = write_notebook(Path(folder, "notebooks"))
        with (
            lab.running_server(notebook.parent, Path(folder, "jupyter")) as server,
            lab.browser_page(lab.find_chromium(), height=1100) as page,
        ):
            tuner = open_tuner(page, server, notebook.name)
            slide_there_and_back(tuner, times=1)  # the first redraws pay for code paths
            took = slide_there_and_back(tuner)
            tuner.choose("Source", "live torch")
            tuner.click("start")
            tuner.wait_enabled("inject", START_TIMEOUT_S)
            page.wait_for_timeout(3000)
            redraws = tuner.redraws_per_s(6.0)
            tuner.click("stop")
            tuner.wait_enabled("start", PROMPT_TIMEOUT_S)
    return statistics.quantiles(took, n=20)[-1], redraws
