"""When the bytes of an answer leave: at the end of the turn of the loop in which it was given, and before anything else
that happens to its connection.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from core.turn import turn_of
from gateway.connection import Connection, connections
from gateway.surfaces import OpenAISurface

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
async def _a_crowd() -> None:
    """Others run too: who is alone waits for no end of a turn."""
    turn_of(asyncio.get_running_loop()).crowd = 2


class Hot:
    """Answers each request at once, as `shape` says."""

    def __init__(self, shape: str) -> None:
        self.shape = shape

    def surface(self, path: str) -> OpenAISurface:
        return OpenAISurface("chat")

    async def serve(self, exchange: Any) -> None:
        if self.shape == "whole":
            exchange.answer(200, "", b"{}")
        else:
            exchange.begin(200, "")
            exchange.write(b"one ")
            exchange.write(b"two")
            exchange.end(b"end")


class Wire(asyncio.Transport):
    """What was written, piece by piece, and that it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[bytes] = []

    def write(self, data: Any) -> None:
        self.out.append(bytes(data))

    def close(self) -> None:
        if not self.is_closing():
            self.out.append(b"closed")

    def is_closing(self) -> bool:
        return self.out[-1:] == [b"closed"]


class Nobody:
    """The application behind the hot routes."""

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        raise AssertionError("every call is hot")


def connected(shape: str = "whole") -> tuple[Connection, Wire]:
    config = uvicorn.Config(Nobody(), log_config=None, access_log=False, loop="none", interface="asgi3")
    config.load()
    protocol: Any = connections(Hot(shape), 60.0)  # type: ignore[arg-type] # it is played
    connection = protocol(config, ServerState(), {}, asyncio.get_running_loop())
    wire = Wire()
    connection.connection_made(wire)
    return connection, wire


async def answered(connection: Connection, request: bytes = REQUEST) -> None:
    """The answer is given, and has not gone out."""
    connection.data_received(request)
    await asyncio.sleep(0)


async def end_of_turn() -> None:
    await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def quiet() -> None:
    turn_of(asyncio.get_running_loop()).end()


async def test_an_answer_goes_out_at_the_end_of_its_turn() -> None:
    connection, wire = connected()
    for _ in range(2):  # the second head is known
        await answered(connection)
        assert wire.out == []
        await end_of_turn()
        (data,) = wire.out
        assert data.startswith(b"HTTP/1.1 200 OK\r\n") and data.endswith(b"\r\n\r\n{}")
        wire.out.clear()


async def test_pieces_of_one_turn_go_out_together() -> None:
    connection, wire = connected("pieces")
    await answered(connection)
    await end_of_turn()
    (data,) = wire.out
    assert data.endswith(b"\r\n\r\n7\r\none two\r\n3\r\nend\r\n0\r\n\r\n")


async def test_an_answer_goes_out_before_a_refusal_of_what_follows() -> None:
    connection, wire = connected()
    await answered(connection)
    connection.data_received(b"\x00 nonsense\r\n\r\n")
    assert wire.out[0].startswith(b"HTTP/1.1 200") and wire.out[1].startswith(b"HTTP/1.1 400")
    assert wire.out[-1] == b"closed"


@pytest.mark.parametrize("close", [Connection.shutdown, lambda connection: connection._close_with(b"408 Late")])
async def test_an_answer_goes_out_before_its_connection_is_closed(close: Callable[[Connection], None]) -> None:
    connection, wire = connected()
    await answered(connection)
    close(connection)
    assert wire.out[0].startswith(b"HTTP/1.1 200") and wire.out[-1] == b"closed"


async def test_a_client_that_wants_no_more_gets_its_answer_and_an_end() -> None:
    connection, wire = connected()
    await answered(connection, REQUEST.replace(b"Host: x", b"Connection: close"))
    assert wire.out[0].startswith(b"HTTP/1.1 200") and wire.out[1:] == [b"closed"]


async def test_nothing_is_written_to_a_client_that_has_left_meanwhile() -> None:
    connection, wire = connected()
    await answered(connection)
    connection.connection_lost(None)
    await end_of_turn()
    assert wire.out == [b"closed"]
