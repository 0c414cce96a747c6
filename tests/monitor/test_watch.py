"""`coursekit monitor`: report, alerts and advice of a server, and its one-line errors."""

import itertools

import pytest

from coursekit import cli
from tests.monitor.test_metrics_text import page
from tests.monitor.web import Site


@pytest.fixture
def site():
    """A server whose every look shows 500 gaps more, of 0.3 s."""
    looks = itertools.count()
    with Site(lambda: page(500 * (many := next(looks)), [0.3] * (500 * many), running=3)) as found:
        yield found


def monitor(url: str, *more: str) -> int:
    return cli.main(["monitor", "--url", url, "--interval", "0.05", "--once", *more])


def test_once_reports_and_advises(site, capsys):
    assert monitor(site.url, "--slo-itl", "0.2") == 0
    out = capsys.readouterr().out
    assert "P99 398 ms (200 to 400)" in out and "n 500" in out
    assert "3.0 running" in out
    assert "ITL: P99 398 ms (200 to 400) is over the SLO" in out
    assert "queue: 0 requests were seen" in out


def test_the_slo_is_the_users(site, capsys):
    assert monitor(site.url, "--slo-itl", "0.5") == 0
    assert "keeps the SLO of 500 ms" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(capsys):
    with Site(lambda: "") as gone:
        pass
    assert monitor(gone.url) == 1
    assert "does not answer" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "more, says",
    [
        (["--cost", "no/such"], "unknown profile"),
        (["--hardware", "a100"], "go together"),
        (["--cost", "x", "--hardware", "a100"], "got both"),
        (["--slo-itl", "0"], "itl_s must be > 0"),
        (["--token-budget", "0"], "token_budget must be >= 1"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_1(site, capsys, more, says):
    assert monitor(site.url, *more) == 1
    assert says in capsys.readouterr().err
