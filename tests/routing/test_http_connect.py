"""Which address of a host is used, when some of them do not answer."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from routing.adapters import http_connect
from routing.adapters.http_connect import Addresses

V4, V6 = socket.AF_INET, socket.AF_INET6


class Network:
    """Names resolve to ports of this machine. silent: ports whose connections hang. tried: in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ports: list[int] = []
        self.silent: set[int] = set()
        self.tried: list[int] = []
        loop = asyncio.get_running_loop()
        connect, resolve = loop.sock_connect, loop.getaddrinfo

        self.asked = 0

        async def getaddrinfo(host: str, port: int, **named: Any) -> list[Any]:
            if host != "h":  # uvloop's sock_connect asks too
                return await resolve(host, port, **named)
            self.asked += 1
            await asyncio.sleep(0.01)
            if not self.ports:
                raise socket.gaierror("no such name")
            return [(V4, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in self.ports]

        async def sock_connect(made: socket.socket, address: Any) -> None:
            self.tried.append(address[1])
            if address[1] in self.silent:
                await asyncio.Event().wait()
            await connect(made, address)

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(loop, "sock_connect", sock_connect)
        monkeypatch.setattr(http_connect, "NEXT_ADDRESS_S", 0.05)


def attempts() -> list[Any]:
    return [task for task in asyncio.all_tasks() if "_connect()" in repr(task.get_coro())]


@contextlib.asynccontextmanager
async def port() -> AsyncIterator[int]:
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*[task for task in serving if task])


def test_families_take_turns() -> None:
    infos: list[Any] = [(V6, 1), (V6, 2), (V4, 3), (V6, 4), (V4, 5)]
    assert [number for _, number in http_connect._alternating(infos)] == [1, 3, 2, 5, 4]


async def test_an_address_that_says_nothing_costs_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    async with port() as good:
        network.ports = [2, good, 3]
        network.silent = {2, 3}
        async with asyncio.timeout(1):
            made = await Addresses("h", 80).connect(asyncio.get_running_loop())
        assert made.getpeername()[1] == good
        assert network.tried == [2, good]
        made.close()
    await asyncio.sleep(0)
    assert not attempts()


async def test_an_address_that_refuses_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    monkeypatch.setattr(http_connect, "NEXT_ADDRESS_S", 60)
    async with port() as good:
        network.ports = [1, good]
        made = await Addresses("h", 80).connect(asyncio.get_running_loop())
        assert made.getpeername()[1] == good
        made.close()


async def test_the_first_address_wins_even_late(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    async with port() as good:
        network.ports = [good, 1, 2]
        made = await Addresses("h", 80).connect(asyncio.get_running_loop())
        assert network.tried == [good]
        made.close()


async def test_no_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    network.ports = [1, 2]
    with pytest.raises(ConnectionRefusedError):
        await Addresses("h", 80).connect(asyncio.get_running_loop())
    assert network.tried == [1, 2]


async def test_who_is_cancelled_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    async with port() as good:
        network.ports = [1, good, 2]
        network.silent = {1, 2}
        for steps in range(6):
            task = asyncio.create_task(Addresses("h", 80).connect(asyncio.get_running_loop()))
            for _ in range(steps):
                await asyncio.sleep(0.01)
            task.cancel()
            for made in await asyncio.gather(task, return_exceptions=True):
                if isinstance(made, socket.socket):
                    made.close()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not attempts()


async def test_a_crowd_asks_for_addresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, loop = Network(monkeypatch), asyncio.get_running_loop()
    async with port() as good:
        network.ports = [good]
        addresses = Addresses("h", 80)
        tasks = [asyncio.create_task(addresses.connect(loop)) for _ in range(20)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # also when the one that began it leaves
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        for made in results[1:]:
            assert isinstance(made, socket.socket)
            made.close()
        (await addresses.connect(loop)).close()
        assert network.asked == 1


async def test_a_host_that_moved_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network, loop = Network(monkeypatch), asyncio.get_running_loop()
    addresses = Addresses("h", 80)
    for asked in (1, 2):
        with pytest.raises(socket.gaierror):
            await addresses.connect(loop)
        assert network.asked == asked
    network.ports = [1]
    with pytest.raises(ConnectionRefusedError):
        await addresses.connect(loop)
    async with port() as good:
        network.ports = [good]
        (await addresses.connect(loop)).close()
    assert network.asked == 4
