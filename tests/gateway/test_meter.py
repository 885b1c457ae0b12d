"""What a stream's meter knows of its usage when the stream is cut off."""

import orjson
import pytest

from gateway.stream import Meter

USAGE = {"prompt_tokens": 7, "completion_tokens": 9}


def chunk(text: str | None = "x", *, usage: object = None, finish: str | None = None) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return orjson.dumps({"choices": choices, "usage": usage})


@pytest.mark.parametrize(
    "last",
    [
        [chunk("y", finish="stop"), chunk(None, usage=USAGE)],
        [chunk(None, usage=USAGE)],
        [chunk("y", finish="stop", usage=USAGE)],
    ],
)
def test_usage_with_the_end_is_that_of_the_whole_answer(last: list[bytes]):
    meter = Meter()
    for payload in [chunk(), chunk(), *last]:
        meter.read(payload)
    usage = meter.whole_usage()
    assert usage and (usage.tokens.input, usage.tokens.output) == (7, 9)


@pytest.mark.parametrize(
    "payloads",
    [
        [chunk(usage=USAGE), chunk(usage=USAGE)],
        [chunk(), chunk("y", finish="stop")],
        [chunk("y", finish="stop"), chunk(None, usage={"prompt_tokens": -1})],
        [],
    ],
)
def test_usage_on_the_way_or_none_is_not(payloads: list[bytes]):
    meter = Meter()
    for payload in payloads:
        meter.read(payload)
    assert meter.whole_usage() is None


def test_every_choice_has_to_end():
    meter = Meter(choices=2)
    meter.read(chunk("y", finish="stop", usage=USAGE))
    assert meter.whole_usage() is None
    meter.read(chunk("z", finish="length", usage=USAGE))
    assert meter.whole_usage()
