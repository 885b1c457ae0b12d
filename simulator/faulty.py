"""Answers that are wrong on purpose: what a fault changes in a body or a stream."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from simulator.chat import ChatPlan, stream_events, usage_event
from simulator.faults import Fault, FaultKind

#: A body that starts like an answer and is no JSON.
GARBAGE = b'{"id": "chatcmpl-", "choices": [{"message": <!doctype html><title>502</title>'

_BREAKS = frozenset({FaultKind.BREAK_STREAM, FaultKind.TRUNCATED})
_DONE = (b"data: [DONE]\n\n", 0)

Usage = Mapping[str, int | float]
Events = Iterator[tuple[bytes, int]]


def breaks_off(fault: Fault | None) -> bool:
    """True if the connection is to be dropped before the answer is complete."""
    return fault is not None and fault.kind in _BREAKS


def reported_usage(usage: Usage, fault: Fault | None) -> Usage | None:
    """The usage that the answer shows; None if it shows none. What is billed does not change."""
    match fault.kind if fault else None:
        case FaultKind.NO_USAGE:
            return None
        case FaultKind.ZERO_USAGE:
            return dict.fromkeys(usage, 0)
        case FaultKind.NEGATIVE_USAGE:
            return {name: -count for name, count in usage.items()}
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
        case _:
            return _whole(events, plan, head, fault)


def _whole(events: Events, plan: ChatPlan, head: Mapping[str, Any], fault: Fault | None) -> Events:
    yield from events
    usage = reported_usage(plan.usage, fault) if plan.include_usage else None
    if usage is not None:
        yield usage_event(head, usage), 0
    if fault is None or fault.kind is not FaultKind.STREAM_WITHOUT_DONE:
        yield _DONE


def _half(events: list[tuple[bytes, int]]) -> Events:
    middle = len(events) // 2
    yield from events[:middle]
    event, tokens = events[middle]
    yield event[: len(event) // 2], tokens
