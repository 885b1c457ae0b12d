"""A request goes out at the end of its turn of the loop. What happens to its connection before that is sure not to be
charged, and nothing that comes before it can be its answer.
"""

import asyncio
from collections.abc import Callable

import pytest

from core.turn import turn_of
from routing.adapters.http_exchange import Connection
from routing.errors import FailureKind, UpstreamError
from tests.routing.wire import OK, client_of, post, raw_server, says, until

ANSWER = OK + b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
async def _a_crowd() -> None:
    """Others run too: who is alone waits for no end of a turn."""
    turn_of(asyncio.get_running_loop()).crowd = 2


@pytest.mark.parametrize(
    "happens",
    [
        lambda connection: connection.data_received(ANSWER),
        lambda connection: connection.data_received(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"),
        lambda connection: connection.eof_received(),
        lambda connection: connection.connection_lost(None),
        lambda connection: connection.connection_lost(ConnectionResetError()),
    ],
)
async def test_what_happens_before_it_is_out(happens: Callable[[Connection], None]) -> None:
    async with raw_server(says(ANSWER)) as server, client_of(server.port) as client:
        await post(client)
        (connection,) = client._idle
        second = asyncio.create_task(post(client))
        await asyncio.sleep(0)
        assert client._idle == []
        happens(connection)
        with pytest.raises(UpstreamError) as caught:
            await second
        assert caught.value.kind is FailureKind.NOT_SENT
        connection._transport.abort()
        await until(lambda: server.gone == 1)
        assert len(server.requests) == 1
        assert (await post(client)).body == b"{}"


async def test_one_that_is_given_up_before_it_is_out_is_never_sent() -> None:
    async with raw_server(says(ANSWER)) as server, client_of(server.port) as client:
        await post(client)
        second = asyncio.create_task(post(client))
        (connection,) = client._idle
        await asyncio.sleep(0)
        assert connection._waiter is not None
        connection.leave(connection._waiter)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await until(lambda: server.gone == 1)
        assert len(server.requests) == 1 and client._slots == 0
