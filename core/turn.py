"""What is put off to the end of a turn of the event loop: writes to sockets.

A write wakes whoever reads the other end, which is a good part of what it costs, and it throws out of the processor's
caches what the program had there. Written one after the other, with nothing between them, a reader that serves many
sockets is woken once, and the program's own work is not interrupted (`bench.turn` shows what that saves).
"""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("spendgate")

Act = Callable[[], object]

_CROWD = 2


class Turn:
    """The turns of one event loop.

    crowd: calls that run at the same time. One alone has nobody to wait for, and waits for nobody.
    """

    __slots__ = ("_acts", "_last", "crowd", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.crowd = 0
        self._acts: list[Act] = []
        self._last: list[Act] = []

    def at_end(self, act: Act) -> None:
        """Do this when all has been done that this turn had to do already; in the order in which it was said."""
        if self.crowd < _CROWD:
            act()
            return
        if not self._acts and not self._last:
            self.loop.call_soon(self.end)
        self._acts.append(act)

    def at_last(self, act: Act) -> None:
        """Do this after all the others: whoever is woken by it may take the processor from those whom they wake."""
        if not self._acts and not self._last:
            self.loop.call_soon(self.end)
        self._last.append(act)

    def end(self) -> None:
        """Do now what was put off."""
        acts, self._acts, self._last = self._acts + self._last, [], []
        for act in acts:
            try:
                act()
            except Exception:  # it is one connection's trouble, and no other's
                log.exception("what was put off to the end of a turn failed")


_last: Turn | None = None


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """The turns of this loop: the same for all that ask, as long as one loop is used at a time."""
    global _last
    if _last is None or _last.loop is not loop:
        _last = Turn(loop)
    return _last
