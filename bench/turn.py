"""What it saves to put off writes to the end of a turn of the event loop (core/turn.py).

    python -m bench.turn [--rounds 5] [--seconds 2] [--connections 32] [--work-us 40]

A server on a core of its own answers a client on another that has many connections: it computes for a while for each
question and writes each answer at once, or all of a turn at its end; the two take turns, round after round. Printed are
the medians of the server's CPU time for an answer, computing included.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop

from bench.speed.machine import share_cores
from core.turn import turn_of

_QUESTION, _ANSWER = b"q" * 400, b"a" * 1200
#: Asks on all its connections, and again as soon as an answer has come.
_CLIENT = """
import selectors, socket, sys
port, connections, question, answer = int(sys.argv[1]), int(sys.argv[2]), b"q" * int(sys.argv[3]), int(sys.argv[4])
selector = selectors.DefaultSelector()
for _ in range(connections):
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(sock, selectors.EVENT_READ)
    sock.sendall(question)
while True:
    for key, _ in selector.select():
        if not key.fileobj.recv(answer, socket.MSG_WAITALL):
            sys.exit()
        key.fileobj.sendall(question)
"""


class _Server(asyncio.Protocol):
    """Answers whole questions."""

    def __init__(self, compute: Callable[[], object], put_off: bool) -> None:
        self._compute = compute
        self._turn = turn_of(asyncio.get_running_loop())
        self._turn.crowd = 2  # who is alone puts nothing off
        self._put_off = put_off
        self.answers = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._answer)  # as a task would be

    def _answer(self) -> None:
        self._compute()
        self.answers += 1
        if self._put_off:
            self._turn.at_end(self._write)
        else:
            self._write()

    def _write(self) -> None:
        self._transport.write(_ANSWER)


async def _cost_us(put_off: bool, given: argparse.Namespace, loops: int, core: frozenset[int]) -> float:
    loop, servers = asyncio.get_running_loop(), list[_Server]()

    def serve() -> _Server:
        servers.append(_Server(lambda: _compute(loops), put_off))
        return servers[-1]

    listening = await loop.create_server(serve, "127.0.0.1", 0)
    words = (listening.sockets[0].getsockname()[1], given.connections, len(_QUESTION), len(_ANSWER))
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", _CLIENT, *[str(word) for word in words])
    os.sched_setaffinity(client.pid, core)
    try:
        await asyncio.sleep(0.5)
        began_s, before = time.process_time(), sum(s.answers for s in servers)
        await asyncio.sleep(given.seconds)
        answers = sum(s.answers for s in servers) - before
        return (time.process_time() - began_s) / answers * 1e6
    finally:
        client.kill()
        await client.wait()
        listening.close()


def _compute(loops: int) -> None:
    for _ in range(loops):
        pass


def _loops(work_us: float) -> int:
    """How often to loop for this long, on a machine that is warm."""
    for loops in (100_000, 1_000_000):
        began_s = time.perf_counter()
        _compute(loops)
    return round(work_us * loops / (time.perf_counter() - began_s) / 1e6)


async def _measure(given: argparse.Namespace) -> None:
    cores = share_cores()
    os.sched_setaffinity(0, cores.gateway)
    loops, costs = _loops(given.work_us), {False: list[float](), True: list[float]()}
    for _ in range(given.rounds):
        for put_off, so_far in costs.items():
            so_far.append(await _cost_us(put_off, given, loops, cores.load))
    at_once_us, put_off_us = (statistics.median(costs[put_off]) for put_off in (False, True))
    print(f"CPU time for an answer: written at once {at_once_us:.1f} us, at the end of the turn {put_off_us:.1f} us")
    print(f"saved: {at_once_us - put_off_us:.1f} us ({at_once_us / put_off_us:.2f} x)")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--work-us", type=float, default=40.0)
    uvloop.run(_measure(parser.parse_args()))


if __name__ == "__main__":
    main()
