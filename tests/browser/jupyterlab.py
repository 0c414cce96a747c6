"""Driving the real JupyterLab from a test: start it, open a notebook, run it, look at it.

Small functions over Playwright's sync API. They know JupyterLab; what a notebook should show
is the business of the test that calls them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
# No sandbox: tests often run as root in a container. The rest keeps a test's browser from
# looking for servers that have nothing to do with it.
CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


def find_chromium() -> str:
    """The path of Chromium. Without one the test is skipped, or fails where CI is set."""
    for name in CHROMIUM_NAMES:
        if path := shutil.which(name):
            return path
    message = (
        "the browser test needs Chromium, found none of "
        f"{', '.join(CHROMIUM_NAMES)}: install it (Debian, Ubuntu: apt install chromium)"
    )
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@dataclass(frozen=True, slots=True)
class Server:
    """A running JupyterLab. `url` ends in a slash; `pid` is its process."""

    url: str
    token: str
    root: Path
    pid: int


@contextmanager
def running_server(root: Path, state: Path) -> Iterator[Server]:
    """JupyterLab on the folder `root`, with all that it would keep at home under `state`.

    Nobody's configuration, workspace or trust list plays a part. On leaving, also after a
    failure, the server and all of its kernels are gone.
    Raises RuntimeError with the log's end if it does not start.
    """
    runtime = state / "runtime"
    log_path = state / "jupyterlab.log"
    _write_settings(state)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
    ]
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, cwd=root, env=_environment(state), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        info = _wait_for_address(process, runtime, log_path)
        yield Server(info["url"], info["token"], root, process.pid)
    finally:
        stop(process)


def stop(process: subprocess.Popen) -> None:
    """End a server and its kernels; kill what is left after `STOP_TIMEOUT_S`."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    process.terminate()  # JupyterLab shuts its kernels down on this signal
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for survivor in alive:
        survivor.kill()
    process.wait()


@contextmanager
def browser_page(chromium: str, width: int = 1400, height: int = 1400) -> Iterator:
    """A fresh page of a headless Chromium, `width` by `height` pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=list(CHROMIUM_FLAGS)
        )
        try:
            yield browser.new_page(viewport={"width": width, "height": height})
        finally:
            browser.close()


def open_notebook(page, server: Server, name: str, timeout_s: float = 90.0) -> None:
    """Open the notebook `name` of the server's root and wait until its kernel is idle."""
    page.goto(f"{server.url}lab/tree/{name}?token={server.token}")
    page.wait_for_function(
        "name => window.jupyterapp?.shell.currentWidget?.context?.path === name",
        arg=name, timeout=timeout_s * 1000,
    )
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.ready")
    _choose_kernel_if_asked(page)
    page.wait_for_function(_KERNEL_IS_IDLE, timeout=timeout_s * 1000)


def run_all(page) -> None:
    """Run > Run All Cells, with the mouse, as a learner does."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    _choose_kernel_if_asked(page)


def wait_until_done(page, timeout_s: float = 300.0) -> None:
    """Wait until each code cell has run, or one has failed, and the kernel is idle."""
    page.wait_for_function(_RUN_IS_OVER, timeout=timeout_s * 1000, polling=250)


def error_outputs(page) -> list[str]:
    """The errors in the notebook's outputs, also of cells that are not in view."""
    return page.evaluate(_ERRORS)


def unrun_cells(page) -> list[str]:
    """First lines of the code cells that have not run."""
    return page.evaluate(_UNRUN)


def scroll_to_cell(page, index: int) -> None:
    """Bring cell `index` into view: JupyterLab keeps only cells near the view in the page."""
    page.evaluate(
        "index => window.jupyterapp.shell.currentWidget.content.scrollToItem(index, 'start')",
        index,
    )


def find_cell(page, text: str) -> int:
    """Index of the first code cell whose source holds `text`. Raises LookupError if none."""
    index = page.evaluate(_FIND, text)
    if index < 0:
        raise LookupError(f"no code cell holds {text!r}")
    return index


def canvas_pixels(page, selector: str) -> str:
    """What the first canvas under `selector` shows now, as a data URL of its pixels."""
    return page.locator(f"{selector} canvas").first.evaluate("canvas => canvas.toDataURL()")


_CELLS = "Array.from(window.jupyterapp.shell.currentWidget.context.model.cells)"
_CODE = f"{_CELLS}.filter(c => c.type === 'code' && c.sharedModel.getSource().trim())"
_KERNEL_IS_IDLE = """() => window.jupyterapp.shell.currentWidget
    .sessionContext.session?.kernel?.status === 'idle'"""
_ERRORS = f"""() => {_CODE}.flatMap(cell => cell.outputs.toJSON())
    .filter(output => output.output_type === 'error')
    .map(output => output.ename + ': ' + output.evalue)"""
_UNRUN = f"""() => {_CODE}.filter(cell => cell.executionCount === null)
    .map(cell => cell.sharedModel.getSource().split('\\n')[0])"""
_RUN_IS_OVER = f"""() => {{
    const failed = ({_ERRORS})().length > 0;
    return (failed || ({_UNRUN})().length === 0) && ({_KERNEL_IS_IDLE})();
}}"""
_FIND = f"""text => {_CELLS}
    .findIndex(c => c.type === 'code' && c.sharedModel.getSource().includes(text))"""


def _choose_kernel_if_asked(page) -> None:
    """Accept the offered kernel: a notebook without a kernel's name makes JupyterLab ask."""
    page.wait_for_timeout(500)
    select = page.locator(".jp-Dialog").get_by_role("button", name="Select")
    if select.count():
        select.first.click()


def _environment(state: Path) -> dict[str, str]:
    """The tests' own environment, with Jupyter's folders moved and this repository first."""
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    kept = {name: value for name, value in os.environ.items() if name != "JUPYTER_PATH"}
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    moved = {name: str(state / folder) for name, folder in folders.items()}
    return {**kept, **moved, "PYTHONPATH": path, "JUPYTER_PREFER_ENV_PATH": "1"}


def _write_settings(state: Path) -> None:
    """No question about news, no look for updates: the rest is as a learner finds it."""
    folder = state / "settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    (folder / "notification.jupyterlab-settings").write_text(json.dumps(news))


def _wait_for_address(process: subprocess.Popen, runtime: Path, log_path: Path) -> dict:
    """Read url and token from the file that a Jupyter server writes once it listens."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        for info in runtime.glob(f"jpserver-{process.pid}.json"):
            if text := info.read_text():
                return json.loads(text)
        time.sleep(0.2)
    tail = "\n".join(log_path.read_text().splitlines()[-30:])
    raise RuntimeError(f"JupyterLab did not start within {START_TIMEOUT_S:.0f} s:\n{tail}")
