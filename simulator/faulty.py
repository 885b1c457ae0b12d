"""Answers that are wrong on purpose: what a fault changes in a body or a stream."""

import gzip
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from simulator.chat import ChatPlan, empty_event, stream_events, usage_event
from simulator.faults import Fault, FaultKind

#: A body that starts like an answer and is no JSON.
GARBAGE = b'{"id": "chatcmpl-", "choices": [{"message": <!doctype html><title>502</title>'

_BREAKS = frozenset({FaultKind.BREAK_STREAM, FaultKind.TRUNCATED})
_DONE = (b"data: [DONE]\n\n", 0)
_FLOODS = frozenset({FaultKind.HUGE_ANSWER, FaultKind.GZIP_BOMB, FaultKind.DRIP})
_ENDLESS = frozenset({FaultKind.ENDLESS, FaultKind.EMPTY_CHUNKS})
_PIECE_BYTES = 64 * 1024
_NAN = "not a number"

Counts = Mapping[str, int | float]
Usage = Mapping[str, int | float | str]
Events = Iterator[tuple[bytes, int]]


def breaks_off(fault: Fault | None) -> bool:
    """True if the connection is to be dropped before the answer is complete."""
    return fault is not None and fault.kind in _BREAKS


def floods(fault: Fault | None, *, stream: bool) -> bool:
    """True if the body is to be that of `flood`."""
    return fault is not None and (fault.kind in _FLOODS or (fault.kind in _ENDLESS and not stream))


def flood(fault: Fault, body: bytes, *, stream: bool) -> Iterator[bytes]:
    """A body that is too large, or too slow, in pieces. body: what it would be otherwise."""
    if fault.kind is FaultKind.GZIP_BOMB:
        yield gzip.compress(bytes(fault.answer_bytes))
    elif fault.kind is FaultKind.DRIP:
        for at in range(len(body)):
            yield body[at : at + 1]
    else:
        yield b'data: {"choices": [' if stream else b'{"choices": ['
        for _ in range(fault.answer_bytes // _PIECE_BYTES):
            yield b" " * _PIECE_BYTES


def spoil(text: bytes, fault: Fault | None) -> bytes:
    """An answer's or an event's JSON with what can't be written as JSON put into it."""
    match fault.kind if fault else None:
        case FaultKind.NAN_USAGE:
            return text.replace(b'"not a number"', b"NaN")
        case FaultKind.INVALID_UTF8:
            return text.replace(b'"content":"', b'"content":"\xff', 1)
        case FaultKind.WRONG_SHAPE:
            head, _, tail = text.partition(b'"choices":[')
            return head + b'"choices":5,"unread":[' + tail if tail else text
        case FaultKind.USAGE_TWICE:
            start = text.find(b',"usage":')
            return text if start < 0 else text[:-1] + text[start:]
        case _:
            return text


def reported_usage(usage: Counts, fault: Fault | None) -> Usage | None:
    """The usage that the answer shows; None if it shows none. What is billed does not change."""
    match fault.kind if fault else None:
        case FaultKind.NO_USAGE:
            return None
        case FaultKind.ZERO_USAGE:
            return dict.fromkeys(usage, 0)
        case FaultKind.NEGATIVE_USAGE:
            return {name: -count for name, count in usage.items()}
        case FaultKind.NAN_USAGE:
            return dict.fromkeys(usage, _NAN)
        case FaultKind.HUGE_USAGE if fault:
            return dict.fromkeys(usage, fault.usage_tokens)
        case _:
            return usage


def chat_events(plan: ChatPlan, head: Mapping[str, Any], tokens_per_chunk: int, fault: Fault | None) -> Events:
    """The events of a stream as they are sent: (bytes, tokens made for them), with the fault applied."""
    events = stream_events(plan, head, tokens_per_chunk)
    match fault.kind if fault else None:
        case FaultKind.BREAK_STREAM if fault:
            return islice(events, fault.chunks)
        case FaultKind.TRUNCATED:
            return _half(list(events))
        case FaultKind.GARBAGE:
            return iter([(b"data: " + GARBAGE + b"\n\n", plan.completion_tokens)])
        case FaultKind.ENDLESS | FaultKind.EMPTY_CHUNKS if fault:
            return _endless(events, head, fault)
        case _:
            return _whole(events, plan, head, fault)


def _whole(events: Events, plan: ChatPlan, head: Mapping[str, Any], fault: Fault | None) -> Events:
    for event, tokens in events:
        yield spoil(event, fault), tokens
    usage = reported_usage(plan.usage, fault) if plan.include_usage else None
    if usage is not None:
        for _ in range(2 if fault is not None and fault.kind is FaultKind.USAGE_TWICE else 1):
            yield spoil(usage_event(head, usage), fault), 0
    if fault is None or fault.kind is not FaultKind.STREAM_WITHOUT_DONE:
        yield _DONE


def _endless(events: Events, head: Mapping[str, Any], fault: Fault) -> Events:
    repeated = next(events) if fault.kind is FaultKind.ENDLESS else (empty_event(head), 0)
    for _ in range(fault.answer_bytes // len(repeated[0])):
        yield repeated


def _half(events: list[tuple[bytes, int]]) -> Events:
    middle = len(events) // 2
    yield from events[:middle]
    event, tokens = events[middle]
    yield event[: len(event) // 2], tokens
