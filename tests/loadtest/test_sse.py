"""Bytes of a stream to events, events to token counts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.loadtest.sse import MAX_EVENT_BYTES, EventSplitter, MalformedStream, read_chunk

WHOLE = "data: eins\n\n: a comment\n\ndata: zwölf\r\n\r\nevent: x\ndata: a\ndata: b\n\ndata:[DONE]\n\n"


@given(st.sets(st.integers(1, len(WHOLE.encode()) - 1)))
def test_events_do_not_depend_on_how_the_bytes_were_cut(cuts):
    data, splitter, events = WHOLE.encode(), EventSplitter(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)]):
        events += splitter.feed(data[start:end])
    assert events == ["eins", "zwölf", "a\nb", "[DONE]"]


def test_an_event_waits_for_its_blank_line():
    splitter = EventSplitter()
    assert splitter.feed(b"data: {}\n") == [] and splitter.feed(b"\n") == ["{}"]


@pytest.mark.parametrize("piece", [b"data: \xff\xfe\n\n", b"x" * (MAX_EVENT_BYTES + 1)])
def test_what_is_no_event_stream_is_refused(piece):
    with pytest.raises(MalformedStream):
        EventSplitter().feed(piece)


def test_a_chunk_says_how_many_tokens_have_come():
    event = {"choices": [{"text": "ab", "finish_reason": None}],
             "usage": {"prompt_tokens": 7, "completion_tokens": 2}}  # fmt: skip
    assert read_chunk(json.dumps(event)) == (True, "ab", 2, 7, "", "")
    del event["usage"]
    assert read_chunk(json.dumps(event))[2:4] == (None, None)


@pytest.mark.parametrize("error", [{"message": "engine dead"}, "engine dead"])
def test_an_error_in_the_stream_is_its_message(error):
    assert read_chunk(json.dumps({"error": error})).error == "engine dead"


@pytest.mark.parametrize("data", ["{", "[1]", "3", "{}", '{"choices": 3}', '{"choices": ["x"]}',
                                  '{"choices": [], "usage": {"completion_tokens": "x"}}'])  # fmt: skip
def test_an_event_that_is_no_chunk_is_refused_and_shown(data):
    with pytest.raises(MalformedStream, match="in an event: "):
        read_chunk(data)
