"""One request to the server: sent, read token by token, and whatever happens put on record.

The request is OpenAI's `/v1/completions`, streamed, with the prompt as token ids, so its length
is exact. `ignore_eos` and `continuous_usage_stats` are vLLM's: the answer has the length asked
for, and each event says how many tokens have come (`entrypoints/openai/completion/serving.py`),
because a busy server puts several into one event.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import aiohttp

from coursekit.loadtest.outcome import (
    ABORTED, DISCONNECTED, FINISHED, MALFORMED, NO_CONNECTION, SERVER_ERROR, STOPPED, TIMED_OUT,
    Outcome, refusal,
)  # fmt: skip
from coursekit.loadtest.sse import Chunk, EventSplitter, MalformedStream, read_chunk

KEEP_ALIVE_S = 4.0  # under the 5 s after which vLLM closes an idle connection
ASK_S = 10.0  # for the server to name its model
DRAIN_S = 1.0  # for a stream to close after its last event
COMPLETE = ("length", "stop")  # finish reasons of an answer that came whole


class Target(NamedTuple):
    """The server under test. version: as it says, "" if it does not."""

    url: str
    model: str
    version: str = ""


def open_session(api_key: str | None = None) -> aiohttp.ClientSession:
    """A session without limits of its own: what waits shall wait in the server."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None),
        headers=headers,
    )


async def find_target(session: aiohttp.ClientSession, url: str, model: str | None) -> Target:
    """The server at `url` and the first model that it names, unless `model` is given.

    Raises RuntimeError if it does not name one.
    """
    url = url.rstrip("/").removesuffix("/v1")
    version = await _ask(session, f"{url}/version")
    version = version.get("version", "") if isinstance(version, dict) else ""
    if model is not None:
        return Target(url, model, version)
    models = await _ask(session, f"{url}/v1/models")
    try:
        return Target(url, models["data"][0]["id"], version)
    except (TypeError, LookupError):
        raise RuntimeError(
            f"no model is served at {url} ({models}): start a server with `coursekit serve`, "
            "or name the model"
        ) from None


async def _ask(session: aiohttp.ClientSession, url: str) -> dict | str:
    """The JSON at `url`, or in words why there is none."""
    try:
        async with asyncio.timeout(ASK_S), session.get(url) as response:
            if response.status != 200:
                return refusal(response.status)
            return await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
        return _says(error)


def body_of(model: str, prompt: Sequence[int], max_tokens: int, **more) -> bytes:
    """The request, as JSON. prompt: token ids, (num_prompt_tokens,)."""
    return json.dumps({
        "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
        "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True}, **more,
    }).encode()  # fmt: skip


async def send(
    session: aiohttp.ClientSession,
    url: str,
    body: bytes,
    outcome: Outcome,
    clock: Callable[[], float],
    timeout_s: float,
) -> None:
    """Send one request and write into `outcome` what comes; raises nothing that the server does.

    url: of the server. clock: seconds since the start of the run. timeout_s: for the whole
    request.
    """
    headers = {"Content-Type": "application/json"}
    outcome.sent_s = clock()
    try:
        async with asyncio.timeout(timeout_s):
            path = f"{url}/v1/completions"
            async with session.post(path, data=body, headers=headers) as response:
                await _read(response, outcome, clock)
    except asyncio.CancelledError:
        _end(outcome, STOPPED, "the run was over")
    except TimeoutError:
        _end(outcome, TIMED_OUT, f"not done within {timeout_s:g} s")
    except (MalformedStream, aiohttp.ClientResponseError) as error:
        _end(outcome, MALFORMED, _says(error))
    except aiohttp.ClientConnectorError as error:
        _end(outcome, NO_CONNECTION, _says(error))
    except (aiohttp.ClientError, OSError) as error:
        _end(outcome, DISCONNECTED, _says(error))
    if outcome.ended_s != outcome.ended_s:  # nan
        outcome.ended_s = clock()


async def _read(response: aiohttp.ClientResponse, outcome: Outcome, clock) -> None:
    """Read the answer to its end, stamping each event when its bytes have come."""
    if response.status != 200:
        body = await response.content.read(300)
        return _end(outcome, refusal(response.status), body.decode(errors="replace"))
    if response.content_type != "text/event-stream":
        raise MalformedStream(f"{response.content_type} instead of text/event-stream")
    splitter, finish_reason = EventSplitter(), ""
    async for piece in response.content.iter_any():
        now_s = clock()
        for data in splitter.feed(piece):
            if data == "[DONE]":
                outcome.ended_s = now_s
                _end(outcome, *_ending(outcome, finish_reason))
                with suppress(aiohttp.ClientError, OSError):  # then the connection serves again
                    async with asyncio.timeout(DRAIN_S):
                        await response.content.read()
                return None
            chunk = read_chunk(data)
            if chunk.error:
                return _end(outcome, SERVER_ERROR, chunk.error)
            _count(outcome, chunk, now_s)
            finish_reason = chunk.finish_reason or finish_reason
    return _end(outcome, DISCONNECTED, "the stream ended without [DONE]")


def _count(outcome: Outcome, chunk: Chunk, now_s: float) -> None:
    """Put the chunk's tokens on record.

    From a server that counts only at the end, an event is taken for one token, and an empty
    one that only says why the answer ends for none; `server_output_tokens` tells if that held.
    """
    if chunk.num_output_tokens is not None:
        outcome.server_output_tokens = chunk.num_output_tokens
        outcome.server_prompt_tokens = chunk.num_prompt_tokens
    if not chunk.has_choice:
        return
    if chunk.num_output_tokens is None:
        new = int(bool(chunk.text) or not chunk.finish_reason)
    else:
        new = chunk.num_output_tokens - outcome.num_output_tokens
    if new < 0:
        raise MalformedStream(f"{-new} tokens fewer than before")
    if new:
        outcome.moments_s.append(now_s)
        outcome.num_tokens.append(new)


def _ending(outcome: Outcome, finish_reason: str) -> tuple[str, str]:
    if not outcome.moments_s:
        return MALFORMED, "a whole stream without a token"
    if finish_reason not in COMPLETE:
        return ABORTED, f"finish reason {finish_reason!r}"
    return FINISHED, ""


def _end(outcome: Outcome, kind: str, detail: str = "") -> None:
    if not outcome.kind:  # how it ended first is how it ended
        outcome.kind, outcome.detail = kind, detail


def _says(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
