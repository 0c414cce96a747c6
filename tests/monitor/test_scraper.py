"""The scraper: it outlives whatever a server does, loses no count over it, and stops at once."""

import threading
import time

import pytest

from coursekit.monitor import MetricsScraper
from coursekit.monitor.fetch import Fetcher
from coursekit.monitor.scraper import metrics_url
from tests.monitor.test_metrics_text import page
from tests.monitor.web import Site


def wait_for(condition, seconds: float = 10.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "this did not happen in time"
        time.sleep(0.01)


def silent(handler):
    """Accepts, and says nothing for longer than anybody waits."""
    threading.Event().wait(30)


def dripping(handler):
    """A byte now and then, for ever, each well within a socket's time-out."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b"#")
        time.sleep(0.05)


def cut_short(handler):
    """Promises more than it sends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nvllm:generation_tokens_total 5\n")


def broken(handler):
    handler.send_error(500)


def not_metrics(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<html>welcome</html>")


def garbage(handler):
    handler.wfile.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")


BAD = [silent, dripping, cut_short, broken, not_metrics, garbage]


def test_it_reads_what_the_counters_gained():
    tokens = iter(range(0, 10_000, 100))
    with Site(lambda: page(next(tokens), running=3)) as site:
        scraper = MetricsScraper(site.url)
        assert all(scraper.scrape_once() for _ in range(4))
        reading = scraper.reading()
    assert (reading.num_output_tokens, reading.num_running, reading.is_up) == (300, 3, True)
    assert reading.source.startswith("vLLM, http://127.0.0.1:")


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_a_failed_look_is_counted_and_the_next_one_goes_on(bad):
    state = {"tokens": 100}
    with Site(lambda: page(state["tokens"])) as site:
        scraper = MetricsScraper(site.url, timeout_s=0.4)
        assert scraper.scrape_once()
        site.raw = bad
        began_s = time.monotonic()
        assert not scraper.scrape_once()
        assert time.monotonic() - began_s < 4.0  # ten times its time-out
        assert (scraper.num_scrapes, scraper.num_failures) == (1, 1)
        assert scraper.last_error and not scraper.reading().is_up
        site.raw, state["tokens"] = None, 170
        assert scraper.scrape_once()
    assert scraper.reading().is_up and scraper.reading().num_output_tokens == 70


def test_it_goes_on_after_a_server_that_died_and_came_back():
    with Site(lambda: page(500, started=1.0)) as first:
        scraper = MetricsScraper(first.url, interval_s=0.02, timeout_s=0.5)
        scraper.start()
        wait_for(lambda: scraper.num_scrapes >= 2)
    wait_for(lambda: scraper.num_failures >= 2)
    assert scraper.is_alive
    with Site(lambda: page(40, started=2.0), port=first.port):
        scrapes = scraper.num_scrapes
        wait_for(lambda: scraper.num_scrapes >= scrapes + 2)
        reading = scraper.reading()
        scraper.stop()
    assert (reading.num_output_tokens, reading.num_restarts, reading.is_up) == (40, 1, True)


@pytest.mark.parametrize("state", [None, silent, dripping], ids=["waiting", "silent", "dripping"])
def test_it_stops_at_once_also_in_the_middle_of_a_look(state):
    with Site(lambda: page(1)) as site:
        site.raw = state
        scraper = MetricsScraper(site.url, interval_s=60, timeout_s=60).start()
        time.sleep(0.2)
        began_s = time.monotonic()
        scraper.stop()
        assert time.monotonic() - began_s < 1.0 and not scraper.is_alive
        scraper.stop()


def test_a_callback_that_fails_does_not_end_it():
    seen = []

    def fail(reading):
        seen.append(reading)
        raise RuntimeError("mine")

    with Site(lambda: page(1)) as site, MetricsScraper(site.url, 0.02, on_scrape=fail) as scraper:
        wait_for(lambda: len(seen) >= 3)
        assert scraper.is_alive and scraper.num_callback_errors >= 2


def test_a_callback_may_stop_it():
    with Site(lambda: page(1)) as site:
        scraper = MetricsScraper(site.url, 0.02, on_scrape=lambda reading: scraper.stop())
        scraper.start()
        wait_for(lambda: not scraper.is_alive)


def test_it_is_started_once():
    with Site(lambda: page(1)) as site, MetricsScraper(site.url) as scraper:
        with pytest.raises(RuntimeError, match="started already"):
            scraper.start()


def test_only_a_servers_own_address_gets_metrics_added():
    assert metrics_url("http://127.0.0.1:8000") == "http://127.0.0.1:8000/metrics"
    assert metrics_url("http://127.0.0.1:8000/") == "http://127.0.0.1:8000/metrics"
    assert metrics_url("http://host/path/metrics") == "http://host/path/metrics"


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "file:///etc/passwd", "http://"])
def test_what_is_no_web_address_is_refused(url):
    with pytest.raises(ValueError, match="url must begin with http"):
        MetricsScraper(url)


@pytest.mark.parametrize("options", [{"interval_s": 0}, {"timeout_s": 0}, {"window_s": 0}])
def test_times_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be > 0 s"):
        MetricsScraper("http://127.0.0.1:1", **options)


def test_a_fetch_after_a_cancel_ends_at_once():
    with Site(lambda: page(1)) as site:
        fetcher = Fetcher(site.url + "/metrics", 5.0)
        assert "vllm:" in fetcher.get()
        fetcher.cancel()
        with pytest.raises(ConnectionAbortedError):
            fetcher.get()
