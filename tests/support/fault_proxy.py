"""A TCP proxy that does to a connection what networks do: late, lost, cut, refused. In a thread, with its own loop.

One fault is in force at a time; `heal` ends it. Connections whose bytes a fault has swallowed are reset when it ends,
because what follows on them would make no sense to either side.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TypeVar

_PIECE = 64 * 1024
_CALL_S = 10.0
T = TypeVar("T")


class _Way(Enum):
    PASS = auto()
    SWALLOW = auto()
    CUT = auto()
    DRIP = auto()
    HOLD = auto()


@dataclass(frozen=True, slots=True)
class _Fault:
    """delay_s: of what goes to the server.

    way: what happens to the answer, from `after` on (a mark in it; empty: its first byte).
    to: only answers to a request that contains these bytes; empty: all. times: how often, then pass; -1: always.
    refuse_new: reset connections as they come.
    """

    way: _Way = _Way.PASS
    delay_s: float = 0.0
    after: bytes = b""
    drip_s: float = 0.0
    to: bytes = b""
    times: int = -1
    forward: bool = True
    refuse_new: bool = False


class _Link:
    """One client's connection and the one made for it."""

    def __init__(self, proxy: "FaultProxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy, self.reader, self.writer = proxy, reader, writer
        self.upstream: asyncio.StreamWriter | None = None
        self.spoilt = False
        self.mute = False
        self.asked = b""
        self.answered = b""
        self.faulty: _Fault | None = None

    async def run(self) -> None:
        reader, self.upstream = await self.proxy._dial()
        pumps = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers(reader))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self) -> None:
        assert self.upstream is not None
        while piece := await self.reader.read(_PIECE):
            self.asked, self.answered, self.faulty = piece, b"", None
            fault = self.proxy._fault
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if not self.proxy._fault.forward:
                self.spoilt = True
                continue
            self.upstream.write(piece)
            await self.upstream.drain()

    async def _answers(self, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(_PIECE):
            await self._answer(piece)

    async def _answer(self, piece: bytes) -> None:
        if self.mute:  # no network loses something in the middle and goes on
            return
        fault = self.faulty or self.proxy._take(self.asked)
        if fault.way is _Way.HOLD:
            await self.proxy._hold()
        if fault.way in (_Way.PASS, _Way.HOLD):
            self.writer.write(piece)
            await self.writer.drain()
            return
        self.faulty, self.spoilt = fault, True
        at = self._where(fault, piece)
        self.writer.write(piece[:at])
        await self.writer.drain()
        if at == len(piece):
            return
        if fault.way is _Way.SWALLOW:
            self.mute = True
        elif fault.way is _Way.CUT:
            self.reset()
        elif fault.way is _Way.DRIP:
            for number in range(at, len(piece)):
                self.writer.write(piece[number : number + 1])
                await asyncio.sleep(fault.drip_s)

    def _where(self, fault: _Fault, piece: bytes) -> int:
        """How much of the piece still passes."""
        before = len(self.answered)
        self.answered += piece
        found = self.answered.find(fault.after)
        return len(piece) if found < 0 else max(0, found + len(fault.after) - before)

    def reset(self) -> None:
        """End it with RST on both sides."""
        for writer in (self.writer, self.upstream):
            if writer is not None:
                _reset(writer)


class FaultProxy:
    """Stands in front of one server.

    lost: answers that were swallowed or cut. holding: answers that are held back now. accepted: connections so far.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.port = 0
        self.lost = 0
        self.holding = 0
        self.accepted = 0
        self._fault = _Fault()
        self._released = asyncio.Event()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def heal(self) -> None:
        """Everything passes again."""
        self._do(self._heal)

    def delay(self, seconds: float) -> None:
        """What goes to the server comes this much later."""
        self._set(_Fault(delay_s=seconds))

    def blackhole(self) -> None:
        """Connections are accepted, and nothing that is said on them arrives, in either direction."""
        self._set(_Fault(_Way.SWALLOW, forward=False))

    def hold(self) -> None:
        """Requests arrive; their answers wait here until `heal`."""
        self._set(_Fault(_Way.HOLD))

    def lose_replies(self, to: bytes, times: int = 1) -> None:
        """Requests that contain `to` arrive; instead of their answers comes a reset."""
        self._set(_Fault(_Way.CUT, to=to, times=times))

    def swallow_replies(self, to: bytes, times: int = 1) -> None:
        """Requests that contain `to` arrive; their answers never come."""
        self._set(_Fault(_Way.SWALLOW, to=to, times=times))

    def cut(self, after: bytes = b"", times: int = -1) -> None:
        """RST once this mark has passed in an answer; before its first byte if it is empty."""
        self._set(_Fault(_Way.CUT, after=after, times=times))

    def drip(self, interval_s: float, after: bytes = b"") -> None:
        """One byte of the answer at a time, from this mark on."""
        self._set(_Fault(_Way.DRIP, after=after, drip_s=interval_s))

    def reset(self, *, new: bool = False) -> None:
        """RST of all connections there are; with `new`, also of those that come, until `heal`."""
        self._set(_Fault(refuse_new=new))
        self._do(self._reset_all)

    def refuse(self) -> None:
        """Nobody listens any more, and who is connected is reset."""
        self._do(self._stop_listening)
        self._do(self._reset_all)

    def open_links(self) -> int:
        """Connections there are now."""
        return len(self._links)

    def start(self) -> None:
        """Listen, on a free port."""
        self._thread.start()
        self._do(self._listen)

    def stop(self) -> None:
        """End everything."""
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    def _do(self, work: "Callable[[], object]") -> None:
        async def run() -> None:
            result = work()
            if asyncio.iscoroutine(result):
                await result

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CALL_S)

    def _set(self, fault: _Fault) -> None:
        self._do(lambda: setattr(self, "_fault", fault))

    def _take(self, asked: bytes) -> _Fault:
        """The fault for the answer to this request; counts it."""
        fault = self._fault
        if fault.way is _Way.PASS or fault.times == 0 or fault.to not in asked:
            return _Fault()
        self.lost += fault.way is not _Way.HOLD
        self._fault = replace(fault, times=fault.times - 1) if fault.times > 0 else fault
        return fault

    async def _hold(self) -> None:
        self.holding += 1
        try:
            await self._released.wait()
        finally:
            self.holding -= 1

    async def _heal(self) -> None:
        self._fault = _Fault()
        self._released.set()
        self._released = asyncio.Event()
        for link in tuple(self._links):
            if link.spoilt:
                link.reset()
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reset_all(self) -> None:
        for link in tuple(self._links):
            link.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(self, reader, writer)
        if self._fault.refuse_new:
            link.reset()
            return
        self._links.add(link)
        try:
            await link.run()
        except OSError:
            link.reset()  # the server is away: so are we
        finally:
            self._links.discard(link)
            for end in (writer, link.upstream):
                if end is not None:
                    end.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.target)

    async def _end(self) -> None:
        self._stop_listening()
        self._reset_all()
        me = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not me]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def fault_proxy(host: str, port: int) -> Iterator[FaultProxy]:
    """A proxy in front of host:port, stopped at the end."""
    proxy = FaultProxy((host, port))
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
