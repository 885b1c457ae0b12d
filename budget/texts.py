"""Texts of several parts, as the scripts write them: events of the stream, and holds (lua/epoch.lua, lua/hold.lua).

The parts are separated by US (0x1F), which JSON, ids and names never hold: `budget.checks` sees to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SEPARATOR = "\x1f"
#: The only field of an event in the stream.
EVENT = b"e"


def event_fields(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """An event of a stream: names and values, in turn."""
    words = fields[EVENT].decode().split(SEPARATOR)
    return dict(zip(words[::2], words[1::2], strict=True))


def event_text(fields: Mapping[str, str]) -> bytes:
    """The same the other way, as lua/epoch.lua writes it."""
    return SEPARATOR.join([word for pair in fields.items() for word in pair]).encode()


@dataclass(frozen=True, slots=True)
class HoldText:
    """A hold as the store has it. Amounts in nano-dollars, as text; accounts: their ids, one a line."""

    status: str
    amount: str
    cost: str
    candidate: str
    tokens: str
    owner: str
    trued: str
    held_ms: str
    accounts: str
    detail: str

    @property
    def account_ids(self) -> tuple[str, ...]:
        """The accounts that it is on."""
        return tuple(self.accounts.split("\n")) if self.accounts else ()


def hold_text(raw: bytes) -> HoldText:
    """The parts of a hold."""
    return HoldText(*raw.decode().split(SEPARATOR, 9))
