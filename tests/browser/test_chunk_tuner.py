"""The chunk tuner in the real JupyterLab: simulated under the slider, then live on the CPU model."""

from pathlib import Path

from tests.browser import jupyterlab as lab
from tests.browser.chunk_tuner_page import (
    PROMPT_TIMEOUT_S, START_TIMEOUT_S, WIDGET, Tuner, open_tuner, slide_there_and_back, workers,
    write_notebook,
)  # fmt: skip

SCREENSHOTS = Path(__file__).parent / "screenshots"
SLIDER_LIMIT_S = 1.0  # ten times what a quiet machine may take


def test_the_live_budget_is_turned_and_the_gaps_follow(tmp_path):
    chromium, page_errors = lab.find_chromium(), []
    notebook = write_notebook(tmp_path / "notebooks")
    with (
        lab.running_server(notebook.parent, tmp_path / "jupyter") as server,
        lab.browser_page(chromium, height=1100) as page,
    ):
        page.on("pageerror", lambda error: page_errors.append(str(error)))
        tuner = open_tuner(page, server, notebook.name)
        took = sorted(slide_there_and_back(tuner, times=1))
        assert took[-2] < SLIDER_LIMIT_S, f"slider to picture: {took} s"
        page.locator(WIDGET).screenshot(path=SCREENSHOTS / "chunk_tuner_simulated.png")
        go_live(tuner, page)
        (worker,) = workers(server)
        page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )
        worker.wait(30)
        assert not workers(server)
    assert page_errors == []


def go_live(tuner: Tuner, page) -> None:
    """Two prompts at two budgets, turned while the model runs: the measured gaps must follow."""
    tuner.choose("Source", "live torch")
    tuner.choose("Token budget", "64 tokens")
    tuner.click("start")
    tuner.wait_enabled("inject", START_TIMEOUT_S)
    page.wait_for_timeout(1000)
    small_gap_s, small_ttft_s = tuner.send_prompt(1)
    tuner.choose("Token budget", "2,048 tokens")
    large_gap_s, large_ttft_s = tuner.send_prompt(2)
    assert [row[1] for row in tuner.prompts()] == ["64", "2048"]
    assert large_gap_s > 3 * small_gap_s
    assert large_ttft_s >= 0.95 * large_gap_s
    assert "predicted" in tuner.prompts()[1][2]
    page.wait_for_timeout(1000)
    assert tuner.redraws_per_s() > 0.5  # 5 on a quiet machine
    page.locator(WIDGET).screenshot(path=SCREENSHOTS / "chunk_tuner_live.png")
    tuner.click("stop")
    tuner.wait_enabled("start", PROMPT_TIMEOUT_S)
    assert tuner.status().startswith("stopped after")
