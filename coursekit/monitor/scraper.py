"""`MetricsScraper`: a thread that looks at a server's /metrics regularly and survives what it sees.

A look that fails is counted and the next one is made on time; what the server's counters gained
meanwhile is in the look after. Readings are of the last minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Lock, Thread, current_thread

from coursekit.monitor.fetch import Fetcher
from coursekit.monitor.metrics_text import read_metrics
from coursekit.monitor.reading import Reading
from coursekit.monitor.vllm_metrics import Window


class MetricsScraper:
    """Scrapes `url` every `interval_s` seconds between `start` and `stop`, or within a `with`.

    url: of the server; "/metrics" is added if it has no path. window_s: what a reading covers.
    on_scrape: called with each new reading, failed looks included, in the scraper's thread; what it
    raises is counted as well. Raises ValueError for settings out of range.

    num_scrapes, num_failures: looks that succeeded, and that did not; num_callback_errors: of
    on_scrape; last_error: of the latest look, None if it was fine.
    """

    def __init__(
        self, url: str, interval_s: float = 5.0, timeout_s: float | None = None,
        window_s: float = 300.0, on_scrape: Callable[[Reading], None] | None = None,
    ):  # fmt: skip
        if not interval_s > 0:
            raise ValueError(f"interval_s must be > 0 s, got {interval_s}")
        self.url = metrics_url(url)
        self.interval_s = interval_s
        self.num_scrapes = self.num_failures = self.num_callback_errors = 0
        self.last_error: str | None = None
        self._fetcher = Fetcher(self.url, min(interval_s, 10.0) if timeout_s is None else timeout_s)
        self._window = Window(window_s)
        self._on_scrape = on_scrape
        self._lock = Lock()
        self._stopping = Event()
        self._thread: Thread | None = None

    def start(self) -> MetricsScraper:
        """Begin. Raises RuntimeError if it has begun before: make another one."""
        if self._thread is not None:
            raise RuntimeError("this scraper has been started already; make another one")
        self._thread = Thread(target=self._run, name="metrics-scraper", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End at once, also in the middle of a look. Harmless when repeated; readings stay.

        A thread that is still connecting is not waited for; it ends as soon as it has.
        """
        self._stopping.set()
        self._fetcher.cancel()
        if self._thread is not None and self._thread is not current_thread():
            self._thread.join(timeout=1.0)

    def __enter__(self) -> MetricsScraper:
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def scrape_once(self) -> bool:
        """Look now; whether it went well. Never raises."""
        try:
            text = self._fetcher.get()
            scrape = read_metrics(text, time.monotonic())
            with self._lock:
                self._window.add(scrape)
                self.num_scrapes += 1
                self.last_error = None
            return True
        except Exception as error:  # whatever a server may do must not end the thread
            if not self._stopping.is_set():
                with self._lock:
                    self.num_failures += 1
                    self.last_error = f"{type(error).__name__}: {error}"
            return False

    def reading(self) -> Reading:
        """What the server did within the window; `is_up` is False after a look that failed."""
        with self._lock:
            return self._window.reading(f"vLLM, {self.url}", is_up=self.last_error is None)

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._stopping.is_set():
            self.scrape_once()
            if self._stopping.is_set():
                return
            self._tell()
            now_s = time.monotonic()
            next_s += self.interval_s
            if next_s < now_s:  # a look took longer than the interval: skip, don't catch up
                next_s = now_s
            self._stopping.wait(next_s - now_s)

    def _tell(self) -> None:
        if self._on_scrape is None:
            return
        try:
            self._on_scrape(self.reading())
        except Exception:
            self.num_callback_errors += 1


def metrics_url(url: str) -> str:
    """`url` with "/metrics" if it names a server only."""
    base = url.rstrip("/")
    return f"{base}/metrics" if base.count("/") == 2 else base
