"""A small HTTP server on loopback that answers as it is told, and can go and come back at its port."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Serves what `answer()` returns as a page; `raw`, if set, gets the handler and answers itself."""

    def __init__(self, answer: Callable[[], str], port: int = 0):
        self.answer, self.raw = answer, None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if site.raw is not None:
                    return site.raw(self)
                page = site.answer().encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_) -> None:
        self.close()
