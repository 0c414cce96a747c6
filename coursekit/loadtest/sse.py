"""Server-sent events of a completions stream: bytes to events, an event to its token count.

The event stream format is WHATWG's (HTML standard, section 9.2), as far as it is used here:
`data` lines, comments, blank lines between events.
"""

from __future__ import annotations

import json
from typing import NamedTuple

MAX_EVENT_BYTES = 1 << 20  # an event is some 300 bytes; without a limit, garbage fills the memory


class MalformedStream(ValueError):
    """The answer is not a stream of completion chunks."""


class EventSplitter:
    """Cuts the bytes of a stream, in whatever pieces they come, into the data of its events."""

    def __init__(self):
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of each event that `piece` completes.

        Raises MalformedStream for bytes that are not UTF-8 and for an event without end.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(_text(line[5:].removeprefix(b" ")))
            elif not line and self._data:
                events.append("\n".join(self._data))
                self._data.clear()
            # anything else is a comment or a field that has no meaning here
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise MalformedStream(f"an event longer than {MAX_EVENT_BYTES} bytes")
        return events


class Chunk(NamedTuple):
    """One event of a completions stream.

    has_choice: whether it is about the text (the last one brings only the counts). text: of
    its tokens. num_output_tokens, num_prompt_tokens: counted by the server up to and with it,
    None if it does not say. finish_reason, error: "" if there is none.
    """

    has_choice: bool
    text: str
    num_output_tokens: int | None
    num_prompt_tokens: int | None
    finish_reason: str
    error: str


def read_chunk(data: str) -> Chunk:
    """The chunk in an event's data. Raises MalformedStream if there is none."""
    try:
        event = json.loads(data)
        if error := event.get("error"):
            said = error.get("message", error) if isinstance(error, dict) else error
            return Chunk(False, "", None, None, "", str(said))
        choices, usage = event["choices"], event.get("usage") or {}
        choice = choices[0] if choices else {}
        return Chunk(
            bool(choices), choice.get("text") or "", _count(usage, "completion_tokens"),
            _count(usage, "prompt_tokens"), choice.get("finish_reason") or "", "",
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MalformedStream(f"{type(error).__name__} in an event: {data[:120]!r}") from None


def _count(usage: dict, name: str) -> int | None:
    return None if usage.get(name) is None else int(usage[name])


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise MalformedStream(f"bytes that are not UTF-8: {line[:40]!r}") from None
