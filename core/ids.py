"""Ids: prefixed, sortable by time, and convertible to a UUID for outside systems.

The 128 bits are a UUID of version 8 (RFC 9562, section 5.8): 48 bits of epoch milliseconds, our 12-bit mark,
62 random bits. The mark lets a webhook about one of our own calls be told from a foreign one even when the
record of the call is gone, so that it is never charged a second time.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import Protocol

from core.clock import Clock

_MARK = 0x5BE
_MIDDLE = f"8{_MARK:03x}"
_VARIANT = 2 << 62
_FETCHED = 512


class Ids(Protocol):
    """A source of new ids."""

    def new(self, prefix: str) -> str:
        """A new id such as ``hld_019a…`` (prefix, underscore, 32 hex digits)."""
        ...


class RandomIds:
    """Ids from the clock and the system's randomness, of which a handful is fetched at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._random: Iterator[int] = iter(())

    def new(self, prefix: str) -> str:
        """A new id with this prefix."""
        random62 = next(self._random, None)
        if random62 is None:
            self._random = iter(memoryview(os.urandom(8 * _FETCHED)).cast("Q"))
            random62 = next(self._random)
        return f"{prefix}_{self._clock.now_ms():012x}{_MIDDLE}{_VARIANT | random62 >> 2:016x}"


def derived_id(prefix: str, *parts: str) -> str:
    """The same id for the same parts, always: for idempotency keys and webhooks. Marked as ours; sorts anywhere."""
    digest = int.from_bytes(hashlib.sha256("\x00".join(parts).encode()).digest()[:16])
    return _format(prefix, digest >> 80, digest & ((1 << 62) - 1))


def id_to_uuid(own_id: str) -> str:
    """The id's 128 bits as UUID text, for outside systems that want a UUID."""
    digits = own_id[-32:]
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid_to_id(prefix: str, text: str) -> str | None:
    """The id behind a UUID that `id_to_uuid` gave out; None if the UUID is not one of ours."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return None
    if value.version != 8 or (value.int >> 64) & 0xFFF != _MARK:
        return None
    return f"{prefix}_{value.hex}"


def id_ms(own_id: str) -> int | None:
    """When one of our ids was made, epoch milliseconds; None if it is not ours. Of a derived one, any number."""
    digits = own_id[-32:]
    if own_id[-33:-32] != "_" or digits[12:16] != _MIDDLE:
        return None
    try:
        return int(digits[:12], 16)
    except ValueError:
        return None


def _format(prefix: str, at_ms: int, random62: int) -> str:
    value = (at_ms << 80) | (8 << 76) | (_MARK << 64) | (2 << 62) | random62
    return f"{prefix}_{value:032x}"
