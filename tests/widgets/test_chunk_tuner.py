"""The tuner: every control at its ends and in the middle, simulated and live, and who holds what."""

import subprocess
import sys
import time

import psutil
import pytest

from coursekit.live.session import LiveSession
from coursekit.models import build_model
from coursekit.widgets import chunk_tuner
from coursekit.widgets.chunk_tuner import ChunkTuner, tuned_scene
from coursekit.widgets.device_lock import hold_device
from tests.live.tiny_folder import write_tiny_model

SIMULATED = ("slider", "budget", "streams", "prompt", "scheduler", "hardware")


@pytest.fixture
def tuner():
    widget = ChunkTuner()
    yield widget
    widget.close()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    return str(write_tiny_model(folder, build_model(tiny_config, seed=1)))


@pytest.fixture
def live(tiny_folder, monkeypatch):
    monkeypatch.setattr(chunk_tuner, "PROMPTS", (100, 240, 250))
    monkeypatch.setattr(chunk_tuner, "BUDGETS", (16, 64, 256))
    widget = ChunkTuner("live torch", model=tiny_folder)
    yield widget
    widget.close()


def until(found, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def values_of(control):
    values = [value for _, value in control._options_full]
    return [values[0], values[len(values) // 2], values[-1]]


# --- Simulated ---


@pytest.mark.parametrize("name", SIMULATED)
def test_every_control_redraws_at_its_ends_and_in_the_middle(tuner, name):
    control, shown = getattr(tuner, name), set()
    for value in values_of(control):
        control.value = value
        assert tuner.error is None, f"{name} = {value}"
        assert "simulated in" in tuner.status.value
        shown.add(tuner.readout.value)
    assert len(shown) > 1, f"{name} changes nothing"


def test_the_numbers_are_those_of_the_simulation(tuner):
    from coursekit.analyzers.scene import play_scene
    from coursekit.cost import RooflineCost
    from coursekit.plots.style import format_seconds

    tuner.slider.value = 64
    run = play_scene(RooflineCost("a100", "llama-2-7b"), "token-budget", 64, 4, 2000)
    assert format_seconds(run.ttft_s) in tuner.readout.value
    assert format_seconds(run.worst_gap_s) in tuner.readout.value
    assert tuner.picture_text.value.count("2,000 tokens at a budget of 64") == 1
    assert tuner.view.label == run.trace.label == tuner.picture.figure.texts[0].get_text()


def test_slider_and_menu_are_one(tuner):
    tuner.budget.value = 32
    assert tuner.slider.value == 32
    tuner.slider.value = 512
    assert tuner.budget.value == 512


def test_the_slo_moves_its_line(tuner):
    tuner.slider.value = 2048
    over = []
    for slo_ms in (1, 50, 60_000):
        tuner.slo.value = slo_ms
        over.append(tuner.view.num_over_slo)
    assert over[0] == len(tuner.view.gaps_s) > over[1] > over[2] == 0


def test_what_can_not_be_simulated_is_said_and_the_next_value_works(tuner, monkeypatch, caplog):
    monkeypatch.setattr(chunk_tuner, "_simulate", lambda *args: 1 / 0)
    tuner.slider.value = 16
    assert isinstance(tuner.error, ZeroDivisionError) and 'role="alert"' in tuner.status.value
    assert "chunk tuner" in caplog.text
    with pytest.raises(ZeroDivisionError):
        tuner.wait()
    monkeypatch.undo()
    tuner.slider.value = 32
    assert tuner.error is None and "simulated in" in tuner.status.value


def test_a_model_that_does_not_fit_the_device_is_said(tuner):
    tuner.shape.value = "llama-2-70b"
    assert "128 GiB for its weights" in tuner.status.value
    tuner.shape.value = "llama-3.1-8b"
    assert tuner.error is None and "llama-3.1-8b" in tuner.view.label


def test_live_buttons_are_off_while_simulating_and_menus_of_devices_while_live(tuner):
    assert tuner.start.disabled and tuner.stop.disabled and tuner.inject.disabled
    tuner.source.value = "live torch"
    assert not tuner.start.disabled and tuner.inject.disabled
    assert tuner.hardware.layout.display == "none"
    tuner.source.value = "simulated"
    assert tuner.hardware.layout.display is None and "simulated in" in tuner.status.value


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="source must be one of simulated, live torch.*'gpu'"):
        ChunkTuner("gpu")
    with pytest.raises(ValueError, match="slo_s must be > 0 seconds, got 0"):
        ChunkTuner(slo_s=0)
    with pytest.raises(ValueError, match="source must be one of"):
        tuned_scene("gpu")
    with pytest.raises(ValueError, match="token_budget must be > 4"):
        tuned_scene(token_budget=4)


def test_the_plain_function_gives_the_picture():
    figure = tuned_scene(token_budget=64)
    assert "at a budget of 64" in figure.alt_text
    assert figure.texts[0].get_text().startswith("simulated (")


# --- Live ---


def started(widget):
    widget.start.click()
    until(lambda: not widget.stop.disabled or widget.error)
    assert widget.error is None
    return widget


def test_a_live_run_from_start_to_stop(live):
    assert live.inject.disabled and not live.start.disabled
    started(live)
    assert live.start.disabled and "running, live (" in live.status.value
    live.inject.click()
    until(lambda: live.view and live.view.prompts and live.view.prompts[0].ttft_s > 0)
    first = live.session.events[-1]["budget"]
    live.budget.value = 16
    until(lambda: live.session.events[-1].get("budget") == 16)
    live.inject.click()
    until(lambda: len(live.view.prompts) == 2 and live.view.prompts[1].ttft_s > 0)
    assert [prompt.token_budget for prompt in live.view.prompts] == [first, 16]
    assert all(prompt.predicted_ttft_s > 0 for prompt in live.view.prompts)
    live.slo.value = 7
    assert live.view.slo_s == 0.007
    live.streams.value = 8
    until(lambda: live.view.num_decode[-1] == 8)
    live.stop.click()
    live.wait()
    assert "stopped after" in live.status.value and not live.start.disabled
    chunks = [n for n, end in zip(live.view.num_prefill, live.view.ends_s)
              if n and end > live.view.prompts[1].arrival_s]  # fmt: skip
    assert max(chunks) <= 12


def test_it_starts_again_in_the_same_process(live):
    started(live).stop.click()
    live.wait()
    pid = live.session.pid
    started(live).stop.click()
    live.wait()
    assert live.session.pid == pid
    live.scheduler.value = "stall-free"
    started(live).stop.click()
    live.wait()
    assert live.session.pid != pid and not psutil.pid_exists(pid)


def test_the_second_widget_says_who_holds_the_device(live, tiny_folder):
    started(live)
    second = ChunkTuner("live torch", model=tiny_folder)
    second.start.click()
    assert f"{live.name} holds this device" in second.status.value and not second.start.disabled
    live.stop.click()
    live.wait()
    started(second)
    second.close()


def test_a_widget_in_another_process_says_so_too(live):
    ask = (
        "from coursekit.widgets.device_lock import take_device; print(take_device('other'))"
    )
    with hold_device("mine"):
        said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert said.stdout.strip() == "mine in another notebook"
    free = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert free.stdout.strip() == "None"


def test_an_engine_that_dies_is_said_and_start_works_again(live):
    started(live)
    psutil.Process(live.session.pid).kill()
    until(lambda: live.error is not None)
    until(lambda: not live.start.disabled)
    assert 'role="alert"' in live.status.value and "process" in live.status.value
    started(live).stop.click()
    live.wait()


def test_closing_ends_the_process(live):
    started(live)
    pid = live.session.pid
    live.close()
    assert not psutil.pid_exists(pid)
    with hold_device("next", should_stop=lambda: True) as held:
        assert held
    live.close()


def test_a_busy_machine_is_pointed_out(live, monkeypatch):
    monkeypatch.setattr(chunk_tuner, "CONTENTION", 0.5)
    started(live)
    until(lambda: "busy with something else" in live.status.value)
    assert 'role="alert"' in live.status.value


def test_changing_the_source_in_mid_run_ends_the_run(live):
    started(live)
    pid = live.session.pid
    live.source.value = "simulated"
    assert not psutil.pid_exists(pid) and "simulated in" in live.status.value
    assert live.start.disabled and live.error is None


def test_the_plain_function_plays_the_scene_live(tiny_folder):
    figure = tuned_scene("live torch", 32, 2, 250, model=tiny_folder)
    assert "250 tokens at a budget of 32" in figure.alt_text
    assert figure.texts[0].get_text().startswith("live (")


def test_the_session_is_given_enough_room(live, monkeypatch):
    asked = {}

    class Spy(LiveSession):
        def __init__(self, kind, **options):
            asked.update(options)
            super().__init__(kind, **options)

    monkeypatch.setattr(chunk_tuner, "LiveSession", Spy)
    started(live)
    assert asked["max_model_len"] > max(chunk_tuner.PROMPTS)
    assert asked["max_num_seqs"] > max(chunk_tuner.STREAMS)
