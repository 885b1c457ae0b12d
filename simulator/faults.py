"""Faults on request: what can go wrong, when it does, and how it is asked for."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from core.errors import InvalidInput


class FaultKind(StrEnum):
    """What goes wrong. The first ten are refused with an error and not billed; the rest as said."""

    RATE_LIMIT = "rate_limit"  # 429, the workspace's limit, with Retry-After
    POLICY_LIMIT = "policy_limit"  # 429, an administrator's limit
    DAILY_LIMIT = "daily_limit"  # 429, the account's spend limit of the day
    UNAVAILABLE = "unavailable"  # 503
    DEADLINE = "deadline"  # 504
    INTERNAL = "internal"  # 500
    INVALID_PARAMETER = "invalid_parameter"  # 400
    NOT_FOUND = "not_found"  # 404
    UNAUTHORIZED = "unauthorized"  # 401
    FORBIDDEN = "forbidden"  # 403
    BREAK_STREAM = "break_stream"  # the connection goes after `chunks` chunks; billed up to there
    NO_USAGE = "no_usage"  # an answer without usage; billed in full, as are the next three
    ZERO_USAGE = "zero_usage"  # usage of 0 tokens
    NEGATIVE_USAGE = "negative_usage"  # usage below 0
    HUGE_USAGE = "huge_usage"  # usage of `usage_tokens`
    GARBAGE = "garbage"  # 200 and a body that is no JSON; billed in full
    HANG = "hang"  # never answered; prompt tokens billed if `billed`
    SLOW = "slow"  # answered after `delay_ms` more
    TRUNCATED = "truncated"  # the connection goes in the middle of the body; billed for what was made
    STREAM_WITHOUT_DONE = "stream_without_done"  # a stream that ends without its end mark; billed in full
    NAN_USAGE = "nan_usage"  # usage of NaN, which is no JSON; billed in full, as are all that follow
    USAGE_TWICE = "usage_twice"  # the same usage twice
    INVALID_UTF8 = "invalid_utf8"  # a text that is no UTF-8
    WRONG_SHAPE = "wrong_shape"  # JSON, but its choices are a number
    HUGE_ANSWER = "huge_answer"  # a body, or one event, of `answer_bytes`
    GZIP_BOMB = "gzip_bomb"  # a compressed body that unpacks to `answer_bytes`
    DRIP = "drip"  # a body that comes a byte at a time, one every `drip_ms`
    ENDLESS = "endless"  # text without an end, whatever max_tokens says, cut at `answer_bytes`; billed as it is made
    EMPTY_CHUNKS = "empty_chunks"  # a stream of chunks with nothing in them, cut at `answer_bytes`


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to do wrong.

    times: how often; None is always. after: calls let through first.
    probability, seed: with which chance a call is hit, from a generator with this seed.
    chunks: of `break_stream`. delay_ms: waited before the call is handled, on top of the model's latency.
    retry_after_s: for 429 and 503; None leaves the kind's default.
    billed: of `hang`. usage_tokens: of `huge_usage`. answer_bytes, drip_ms: of the kinds that say so.
    """

    kind: FaultKind
    times: int | None = None
    after: int = 0
    probability: float = 1.0
    seed: int = 0
    chunks: int = 1
    delay_ms: float = 0.0
    retry_after_s: int | None = None
    billed: bool = False
    usage_tokens: int | float = 9_000_000_000_000_000
    answer_bytes: int = 100_000_000
    drip_ms: float = 50.0


_FIELDS = {field.name: field.type for field in fields(Fault) if field.name != "kind"}
_SLOW_DELAY_MS = 1000.0
_DECIMALS = ("probability", "delay_ms", "usage_tokens", "drip_ms")


def parse_fault(raw: Mapping[str, Any]) -> Fault:
    """``{"fault": "rate_limit", "times": 2}`` to a Fault.

    Raises:
        InvalidInput: an unknown name or field, or a value of the wrong type.
    """
    given = dict(raw)
    name = given.pop("fault", None)
    try:
        kind = FaultKind(name)
    except ValueError:
        known = ", ".join(FaultKind)
        raise InvalidInput("fault", f"must be one of {known}") from None
    if kind is FaultKind.SLOW:
        given.setdefault("delay_ms", _SLOW_DELAY_MS)
    for field, value in given.items():
        _check(field, value)
    return Fault(kind, **given)


def parse_faults(raw: object) -> tuple[Fault, ...]:
    """One fault, a list of them, or ``{"faults": [...]}``; an empty list is none.

    Raises:
        InvalidInput: as `parse_fault`, or the value has none of these shapes.
    """
    if isinstance(raw, Mapping) and "faults" in raw:
        raw = raw["faults"]
    if isinstance(raw, Mapping):
        raw = [raw]
    if not isinstance(raw, list) or not all(isinstance(item, Mapping) for item in raw):
        raise InvalidInput("faults", 'must be a list of objects such as {"fault": "rate_limit", "times": 2}')
    return tuple(parse_fault(item) for item in raw)


def parse_fault_header(text: str) -> Fault:
    """The header ``X-Simulate-Fault``: ``break_stream`` or ``break_stream;chunks=3;delay_ms=10``.

    Raises:
        InvalidInput: as `parse_fault`.
    """
    name, *options = (part.strip() for part in text.split(";"))
    raw: dict[str, Any] = {"fault": name}
    for option in options:
        field, _, value = option.partition("=")
        raw[field] = _read_option(field, value)
    return parse_fault(raw)


class FaultPlan:
    """Faults with their counters; the first that is due is taken."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._armed = [_Armed(fault) for fault in faults]

    def __bool__(self) -> bool:
        return bool(self._armed)

    def take(self) -> Fault | None:
        """The fault for the next call, or None. Every fault up to the one taken counts the call."""
        return next((armed.fault for armed in self._armed if armed.hits()), None)


class _Armed:
    """A fault, how many calls it has seen and how many it has hit."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._seen = 0
        self._hit = 0
        self._random = random.Random(fault.seed)

    def hits(self) -> bool:
        fault = self.fault
        self._seen += 1
        if self._seen <= fault.after or (fault.times is not None and self._hit >= fault.times):
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        self._hit += 1
        return True


def _check(field: str, value: object) -> None:
    if field not in _FIELDS:
        raise InvalidInput(field, f"is no option of a fault; options are {', '.join(_FIELDS)}")
    if field == "billed":
        good = isinstance(value, bool)
    elif field in _DECIMALS:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        optional = field in ("times", "retry_after_s") and value is None
        good = optional or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)
    if not good:
        raise InvalidInput(field, "has a value of the wrong type or below 0")


def _read_option(field: str, text: str) -> object:
    if field == "billed":
        return text.lower() in ("1", "true", "yes")
    try:
        return float(text) if field in _DECIMALS else int(text)
    except ValueError:
        raise InvalidInput(field, "must be a number") from None
