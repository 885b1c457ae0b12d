"""Events are the same however their bytes are cut: the quick way for whole events gives what the slow one gives."""

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from routing.adapters.sse import EventDecoder, whole_events


def slowly(text: bytes) -> list[bytes]:
    """Line by line, as the standard says, for bytes that are all there."""
    payloads: list[bytes] = []
    data: list[bytes] = []
    for line in text.split(b"\n")[:-1]:
        line = line.removesuffix(b"\r")
        name, _, value = line.partition(b":")
        if not line:
            if data:
                payloads.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return payloads


#: What streams are made of, and what could be taken for it.
PARTS = st.sampled_from(
    [b"data: ", b"data:", b"data", b"\n\n", b"\n", b"\r\n", b"\r", b": ping", b"event: x\n", b"id: 1\n", b" ", b"",
     b'{"a":1}', b"[DONE]", b"data: x\n\n", b"data: y\n\ndata: z\n\n", b"data: \n\n",
     b"xdata: q\n\n", b"data: a\ndata: b\n\n"]
)  # fmt: skip
TEXTS = st.lists(PARTS, max_size=30).map(b"".join)


@settings(max_examples=400)
@given(TEXTS, st.lists(st.integers(0, 300), max_size=8))
@example(b"data: a\ndata: b\n\n", [8])
@example(b"data: a\n\ndata: b\n\n", [3, 15])
@example(b"data: x\r\n\n", [])
def test_any_cut_gives_the_same_events(text: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    decoder = EventDecoder(1 << 20)
    found = [p for at, to in itertools.pairwise(edges) for p in decoder.feed(text[at:to])]
    assert found == slowly(text)


@settings(max_examples=400)
@given(TEXTS)
@example(b"data: x\r\n\n")
def test_the_quick_way_is_right_where_it_is_taken(text: bytes) -> None:
    quick = whole_events(text)
    assert quick is None or quick == slowly(text)


def test_the_quick_way_is_taken_where_it_counts() -> None:
    assert whole_events(b'data: {"a":1}\n\n') == [b'{"a":1}']
    assert whole_events(b"data: 1\n\ndata: 2\n\n") == [b"1", b"2"]
    assert whole_events(b"data: 1\ndata: 2\n\n") is None
    assert whole_events(b": ping\n\n") is None
