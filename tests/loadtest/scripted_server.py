"""A server on loopback that answers as it is told: well, or in each way that one can fail.

What a request gets is decided by the length of its prompt (`BEHAVIOURS`); it listens on a real
port and speaks real HTTP, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager

from aiohttp import web

STEP_S = 0.005


class ScriptedServer:
    """url: where it listens. bodies: the requests it got. open: how many it is answering."""

    def __init__(self, behaviours: dict[int, str] | None = None, step_s: float = STEP_S):
        self.behaviours, self.step_s = behaviours or {}, step_s
        self.bodies: list[dict] = []
        self.open = self.most_open = 0
        self.answered = threading.Event()  # set when the first request is answered

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "scripted"}]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            behaviour = self.behaviours.get(len(body["prompt"]), "good")
            return await getattr(self, behaviour)(request, body)
        finally:
            self.open -= 1
            self.answered.set()

    async def _start(self, request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        return response

    async def _tokens(self, response, body, total, each=1, usage=True, reason="length") -> None:
        for done in range(each, total + 1, each):
            await asyncio.sleep(self.step_s)
            last = done + each > total and reason
            event = {"choices": [{"text": "a" * each, "finish_reason": reason if last else None}]}
            if usage:
                event["usage"] = _usage(body, done)
            await response.write(_data(event))

    async def _close(self, response, body, total) -> web.StreamResponse:
        await response.write(_data({"choices": [], "usage": _usage(body, total)}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def good(self, request, body, **more) -> web.StreamResponse:
        response = await self._start(request)
        await self._tokens(response, body, body["max_tokens"], **more)
        return await self._close(response, body, body["max_tokens"])

    async def in_pairs(self, request, body) -> web.StreamResponse:
        return await self.good(request, body, each=2)

    async def uncounted(self, request, body) -> web.StreamResponse:
        return await self.good(request, body, usage=False)

    async def uncounted_pairs(self, request, body) -> web.StreamResponse:
        return await self.good(request, body, each=2, usage=False)

    async def aborted(self, request, body) -> web.StreamResponse:
        return await self.good(request, body, reason="abort")

    async def full(self, request, body) -> web.Response:
        return web.json_response({"error": {"message": "too many"}}, status=503)

    async def refused(self, request, body) -> web.Response:
        return web.Response(text="prompt too long", status=400)

    async def broken(self, request, body) -> web.Response:
        raise web.HTTPInternalServerError(text="it broke")

    async def silent(self, request, body) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("the client waited a minute")

    async def stalls(self, request, body) -> web.StreamResponse:
        response = await self._start(request)
        await self._tokens(response, body, 2, reason=None)
        await asyncio.sleep(60)
        return response

    async def hangs_up(self, request, body) -> web.StreamResponse:
        request.transport.abort()
        return web.Response()

    async def breaks_off(self, request, body) -> web.StreamResponse:
        response = await self._start(request)
        await self._tokens(response, body, 2, reason=None)
        await asyncio.sleep(self.step_s)
        request.transport.abort()
        return response

    async def ends_early(self, request, body) -> web.StreamResponse:
        response = await self._start(request)
        await self._tokens(response, body, 2, reason=None)
        return response

    async def no_json(self, request, body) -> web.StreamResponse:
        response = await self._start(request)
        await self._tokens(response, body, 1, reason=None)
        await response.write(b"data: {'single': quotes}\n\n")
        return response

    async def a_page(self, request, body) -> web.Response:
        return web.Response(text="<html>a proxy's greeting</html>", content_type="text/html")

    async def empty(self, request, body) -> web.StreamResponse:
        return await self._close(await self._start(request), body, 0)

    async def says_error(self, request, body) -> web.StreamResponse:
        response = await self._start(request)
        await self._tokens(response, body, 1, reason=None)
        await response.write(_data({"error": {"message": "engine dead", "code": 500}}))
        return await self._close(response, body, 1)

    async def never_closes(self, request, body) -> web.StreamResponse:
        response = await self.good(request, body)
        await asyncio.sleep(60)
        return response


@contextmanager
def serving(behaviours: dict[int, str] | None = None, **options):
    """A `ScriptedServer` that runs inside the `with`; `stop()` ends it in mid-answer."""
    server = ScriptedServer(behaviours, **options)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/models", server.models)
        app.router.add_post("/v1/completions", server.completions)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        return runner

    async def stop(runner: web.AppRunner) -> None:
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:  # else it has been closed meanwhile
                connection.transport.abort()
        await runner.cleanup()

    def run() -> None:
        runner = loop.run_until_complete(start())
        server.stop = lambda: asyncio.run_coroutine_threadsafe(stop(runner), loop).result(10)
        ready.set()
        loop.run_forever()
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        server.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def _data(event: dict) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def _usage(body: dict, done: int) -> dict:
    return {"prompt_tokens": len(body["prompt"]), "completion_tokens": done}
