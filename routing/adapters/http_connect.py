"""A socket to whichever of a host's addresses answers first (Happy Eyeballs, RFC 8305).

Addresses are tried in turn, of each family alternately; the next begins when the one before has failed or has said
nothing for a moment. So a network that swallows IPv6 costs a quarter of a second and not the call. Of the two event
loops only asyncio's own can do this, hence here.
"""

import asyncio
import itertools
import socket
from collections.abc import Sequence
from typing import Any

NEXT_ADDRESS_S = 0.25
_KNOWN_S = 10.0


class Addresses:
    """Where a host is. A crowd of connections asks once: look-ups are done by a handful of threads."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._infos: list[Any] = []
        self._until_s = 0.0
        self._asking: asyncio.Task[list[Any]] | None = None

    async def connect(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """As `connected_socket`.

        Raises:
            OSError: the host has no address, or none can be reached.
        """
        try:
            return await connected_socket(loop, await self._known(loop))
        except OSError:
            self._infos = []  # it may have moved
            raise

    def close(self) -> None:
        """Stop a look-up that runs."""
        if self._asking is not None:
            self._asking.cancel()

    async def _known(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        if self._infos and loop.time() < self._until_s:
            return self._infos
        if self._asking is None:
            self._asking = loop.create_task(self._ask(loop))
            self._asking.add_done_callback(self._asked)
        # Shielded: the one that began it may leave, the others still wait for it.
        return await asyncio.shield(self._asking)

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        infos = _alternating(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        self._infos, self._until_s = infos, loop.time() + _KNOWN_S
        return infos

    def _asked(self, task: "asyncio.Task[list[Any]]") -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # whoever waits hears of it; perhaps nobody does any more


async def connected_socket(loop: asyncio.AbstractEventLoop, infos: Sequence[Any]) -> socket.socket:
    """Connected and not blocking; it holds no small packets back. infos: as of `getaddrinfo`, best first.

    Raises:
        OSError: of the first address, if none can be reached.
    """
    if len(infos) == 1:
        return await _connect(loop, infos[0])
    attempts: list[asyncio.Task[socket.socket]] = []
    winner = None
    try:
        for info in infos:
            attempts.append(loop.create_task(_connect(loop, info)))
            winner = await _first(attempts, NEXT_ADDRESS_S)
            if winner is not None:
                return winner.result()
        while winner is None and not all(a.done() for a in attempts):
            winner = await _first(attempts, None)
        return (winner or attempts[0]).result()
    finally:
        for attempt in attempts:
            if attempt is not winner:
                attempt.cancel()
                attempt.add_done_callback(_close)


def _alternating(infos: Sequence[Any]) -> list[Any]:
    """The addresses in their order, but each followed by one of the other family, if there is one."""
    first = [info for info in infos if info[0] == infos[0][0]]
    others = [info for info in infos if info[0] != infos[0][0]]
    return [info for pair in itertools.zip_longest(first, others) for info in pair if info is not None]


async def _connect(loop: asyncio.AbstractEventLoop, info: Any) -> socket.socket:
    family, kind, protocol, _, address = info
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


async def _first(
    attempts: Sequence["asyncio.Task[socket.socket]"], wait_s: float | None
) -> "asyncio.Task[socket.socket] | None":
    """The first attempt that succeeds; None after that time, or once another of them has failed."""
    open_attempts = {a for a in attempts if not a.done()}
    done, _ = await asyncio.wait(open_attempts, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    return next((a for a in done if a.exception() is None), None)


def _close(attempt: "asyncio.Task[socket.socket]") -> None:
    """What a loser brings after all."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
