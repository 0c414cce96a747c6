"""One GET of a text page that ends in time, whatever the other side does, and can be cut short.

A server may accept and say nothing, drip a byte a second, or never end; `urlopen` would wait for
all of these, as its time-out is for each piece. Here a timer shuts the socket down.
"""

from __future__ import annotations

import http.client
import socket
from threading import Lock, Timer
from urllib.parse import urlsplit

MOST_BYTES = 64 * 2**20


class Fetcher:
    """Fetches `url`, one call at a time; `cancel`, from another thread, ends the call in progress.

    timeout_s: for the whole page, after connecting; and for connecting. Raises ValueError for a URL
    that is not http or https.
    """

    def __init__(self, url: str, timeout_s: float):
        self._parts = urlsplit(url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ValueError(f"url must begin with http:// or https:// and a host, got {url!r}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be > 0 s, got {timeout_s}")
        self.timeout_s = timeout_s
        self._lock = Lock()
        self._sock: socket.socket | None = None
        self._cancelled = self._was_cut = False

    def get(self) -> str:
        """The page. Raises OSError if none comes in time, for a status but 200, after `cancel`."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname, self._parts.port, timeout=self.timeout_s)
        timer = Timer(self.timeout_s, self._cut)
        timer.daemon = True
        try:
            connection.connect()
            with self._lock:
                self._sock, self._was_cut = connection.sock, False
                if self._cancelled:
                    raise ConnectionAbortedError("cancelled")
            timer.start()
            return self._ask(connection)
        except (OSError, http.client.HTTPException) as error:
            raise self._explained(error) from error
        finally:
            timer.cancel()
            with self._lock:
                self._sock = None
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> str:
        query = f"?{self._parts.query}" if self._parts.query else ""
        connection.request("GET", (self._parts.path or "/") + query)
        response = connection.getresponse()
        if response.status != 200:
            raise ConnectionError(f"status {response.status} {response.reason}")
        page = response.read(MOST_BYTES + 1)
        if self._was_cut or self._cancelled:  # a page without a length looks whole when it is cut
            raise ConnectionError("cut")
        if response.length:
            raise ConnectionError(f"the page ended {response.length:,} bytes too soon")
        if len(page) > MOST_BYTES:
            raise ConnectionError(f"a page of over {MOST_BYTES:,} bytes is not one of metrics")
        return page.decode("utf-8", "replace")

    def _explained(self, error: Exception) -> OSError:
        if self._cancelled:
            return ConnectionAbortedError("cancelled")
        if self._was_cut:
            return TimeoutError(f"no whole page within {self.timeout_s:g} s")
        if isinstance(error, OSError):
            return error
        return ConnectionError(f"{type(error).__name__}: {error}")

    def cancel(self) -> None:
        """End the call in progress, and all later ones at once."""
        self._cancelled = True
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            self._was_cut = True
            if self._sock is None:
                return
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was faster
