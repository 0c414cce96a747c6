"""The browser helpers themselves: what they say when something is missing."""

import pytest

from tests.browser import jupyterlab as lab


@pytest.fixture
def no_chromium(monkeypatch):
    monkeypatch.setattr(lab, "CHROMIUM_NAMES", ("no-such-browser",))


def test_without_chromium_the_test_is_skipped_and_says_how_to_get_it(no_chromium, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install chromium"):
        lab.find_chromium()


def test_without_chromium_but_with_ci_the_test_fails(no_chromium, monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install chromium"):
        lab.find_chromium()


def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(lab.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="JupyterLab did not start"):
        with lab.running_server(tmp_path, tmp_path / "state"):
            pass
