"""The hot path's client against a server that a test plays itself, and against real ones."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import hiredis
import pytest
from redis.asyncio import RedisCluster

from budget import pipe as pipe_module
from budget.connect import close, connect, find_primary
from budget.pipe import Pipe
from budget.script import Script
from core.errors import Conflict, StoreUnavailable
from tests.support.stores import RunningServer, client_of, running_cluster, running_redis, running_sentinel

SCRIPT = Script("budget", "agree")


class Echo(Script):
    """A script that gives back its arguments."""

    def __init__(self) -> None:
        super().__init__("budget", "agree")
        self.text = "#!lua\nreturn {KEYS[1], ARGV[1]}"
        self.sha = "0" * 40  # no server has it: it must be sent as a whole


class Server:
    """A server that is played by a test. asked: commands, in the order they came. pieces: what came at once."""

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []
        self.pieces: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.answer: Callable[[list[bytes]], bytes | None] = lambda command: (
            b"*1\r\n$%d\r\n%b\r\n"
            % (
                len(command[-1]),
                command[-1],
            )
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        parser = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 20):
                self.pieces.append(piece)
                parser.feed(piece)
                while (command := parser.gets()) is not False:
                    self.asked.append(command)
                    reply = self.answer(command)
                    if reply is not None:
                        writer.write(reply)


@contextlib.asynccontextmanager
async def playing(options: str = "socket_timeout=0.3&socket_connect_timeout=0.3") -> AsyncIterator[tuple[Server, Pipe]]:
    played = Server()
    listening = await asyncio.start_server(played.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = connect(f"redis://127.0.0.1:{port}?{options}")
    try:
        yield played, Pipe(client, "sg:{t}:x")
    finally:
        await close(client)
        listening.close()
        for writer in played.writers:
            writer.close()
        await asyncio.sleep(0)


def ask(pipe: Pipe, word: str, read: Callable[[list[Any]], Any] = lambda reply: reply[0]) -> "asyncio.Future[Any]":
    return pipe.call(SCRIPT, SCRIPT.command(["sg:{t}:k"], [word]), read)


def run(pipe: Pipe, script: Script, keys: list[str], args: list[str | bytes]) -> "asyncio.Future[Any]":
    return pipe.call(script, script.command(keys, args), lambda reply: reply)


async def test_what_is_asked_in_one_turn_leaves_in_one_write_and_is_answered_in_order() -> None:
    async with playing() as (server, pipe):
        assert await ask(pipe, "first") == b"first"
        server.pieces.clear()
        answers = await asyncio.gather(*(ask(pipe, f"w{n}") for n in range(100)))
        assert answers == [b"w%d" % n for n in range(100)]
        assert len(server.pieces) == 1 and server.connections == 1
        assert server.asked[-1][:3] == [b"EVALSHA", SCRIPT.sha.encode(), b"1"]


async def test_replies_may_come_in_single_bytes() -> None:
    async with playing() as (server, pipe):
        server.answer = lambda _: None
        answers = [ask(pipe, "a"), ask(pipe, "b")]
        while len(server.asked) < 2:
            await asyncio.sleep(0)
        for byte in b"*1\r\n$1\r\na\r\n*1\r\n:77\r\n":
            server.writers[0].write(bytes([byte]))
            await server.writers[0].drain()
            await asyncio.sleep(0)
        assert await asyncio.gather(*answers) == [b"a", 77]


async def test_who_does_not_wait_any_more_does_not_disturb_the_others() -> None:
    async with playing() as (server, pipe):
        await ask(pipe, "x")
        first, second, third = ask(pipe, "a"), ask(pipe, "b"), ask(pipe, "c")
        second.cancel()
        assert (await first, await third) == (b"a", b"c")
        assert [command[-1] for command in server.asked] == [b"x", b"a", b"b", b"c"], "it was on its way"


async def test_a_caller_that_is_cancelled_hears_it_at_once() -> None:
    async with playing() as (server, pipe):
        server.answer = lambda _: None
        task = asyncio.ensure_future(_wait(ask(pipe, "a")))
        while not server.asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def _wait(answer: "asyncio.Future[Any]") -> Any:
    return await answer


async def test_what_was_given_up_before_there_was_a_connection_is_never_sent() -> None:
    async with playing() as (server, pipe):
        given_up, wanted = ask(pipe, "a"), ask(pipe, "b")
        given_up.cancel()
        assert await wanted == b"b"
        assert [command[-1] for command in server.asked] == [b"b"]


async def test_an_answer_that_does_not_come_takes_the_connection_with_it() -> None:
    async with playing() as (server, pipe):
        echo, server.answer = server.answer, lambda _: None
        first, second = ask(pipe, "lost"), ask(pipe, "behind")
        for answer in (first, second):
            with pytest.raises(StoreUnavailable, match="in time"):
                await answer
        server.answer = echo
        assert await ask(pipe, "again") == b"again"
        assert server.connections == 2
        assert [c[-1] for c in server.asked].count(b"lost") == 1, "nothing is sent twice"


@pytest.mark.parametrize("cut", [b"", b"*1\r\n$5\r\nhal", b"this is no reply\r\n", b":1\r\n:2\r\n"])
async def test_a_connection_that_breaks_or_makes_no_sense_is_dropped(cut: bytes) -> None:
    async with playing() as (server, pipe):
        await ask(pipe, "first")
        echo, server.answer = server.answer, lambda _: None
        answers = [ask(pipe, "a")]
        while len(server.asked) < 2:
            await asyncio.sleep(0)
        server.writers[0].write(cut)
        server.writers[0].close()
        with pytest.raises(StoreUnavailable):
            await answers[0]
        server.answer = echo
        assert await ask(pipe, "b") == b"b"
        assert server.connections == 2


async def test_nobody_there_is_said_at_once_and_the_next_tries_again() -> None:
    async with playing() as (server, pipe):
        await ask(pipe, "x")
        for writer in server.writers:
            writer.close()
        await asyncio.sleep(0.05)  # the connection is seen to be closed
        assert await ask(pipe, "y") == b"y"
        assert server.connections == 2
    with contextlib.suppress(StoreUnavailable):
        async with asyncio.timeout(2):
            await ask(pipe, "z")


async def test_a_server_that_never_takes_the_connection_is_not_waited_for() -> None:
    client = connect("redis://10.255.255.1:6379?socket_connect_timeout=0.2&socket_timeout=5")
    pipe = Pipe(client, "sg:{t}:x")
    try:
        async with asyncio.timeout(2):
            with pytest.raises(StoreUnavailable):
                await ask(pipe, "a")
    finally:
        await close(client)


@pytest.mark.parametrize("error", ["OOM command not allowed", "READONLY it is a replica", "LOADING the data"])
async def test_an_error_is_the_callers_alone(error: str) -> None:
    async with playing() as (server, pipe):
        echo = server.answer
        server.answer = lambda c: b"-%b\r\n" % error.encode() if c[-1] == b"bad" else echo(c)
        with pytest.raises(StoreUnavailable, match=error.split()[0]):
            await ask(pipe, "bad")
        assert await ask(pipe, "good") == b"good"
        assert server.connections == (2 if error.startswith("READONLY") else 1), "a replica is not asked again"


async def test_what_came_with_a_refusal_of_the_connection_is_still_answered() -> None:
    async with playing() as (server, pipe):
        await ask(pipe, "first")
        echo = server.answer
        server.answer = lambda c: b"-READONLY it is a replica\r\n" if c[-1] == b"bad" else echo(c)
        bad, good, last = ask(pipe, "bad"), ask(pipe, "good"), ask(pipe, "last")
        with pytest.raises(StoreUnavailable):
            await bad
        assert [await good, await last] == [b"good", b"last"]


async def test_what_can_not_be_sent_is_its_callers_error_alone() -> None:
    async with playing() as (_, pipe):
        with pytest.raises(UnicodeEncodeError):
            ask(pipe, "\ud800")
        assert await ask(pipe, "fine") == b"fine"


async def test_what_was_closed_stays_closed() -> None:
    async with playing() as (server, pipe):
        await ask(pipe, "a")
        await pipe.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await ask(pipe, "b")
        assert server.connections == 1


async def test_what_the_reader_refuses_is_the_callers_error() -> None:
    def refuse(_: list[Any]) -> Any:
        raise Conflict("no")

    async with playing() as (_, pipe):
        with pytest.raises(Conflict):
            await ask(pipe, "a", refuse)
        assert await ask(pipe, "b") == b"b"


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe_module, "MAX_WAITING", 3)
    async with playing() as (server, pipe):
        server.answer = lambda _: None
        waiting = [ask(pipe, str(n)) for n in range(3)]
        with pytest.raises(StoreUnavailable, match="keep up"):
            await ask(pipe, "too many, before there is a connection")
        while len(server.asked) < 3:
            await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="keep up"):
            await ask(pipe, "too many")
        assert len(server.asked) == 3
        for answer in waiting:
            answer.cancel()


async def test_its_end_is_told_to_all_who_wait() -> None:
    async with playing() as (server, pipe):
        server.answer = lambda _: None
        sent = ask(pipe, "a")
        while not server.asked:
            await asyncio.sleep(0)
        await pipe.close()
        with pytest.raises(StoreUnavailable):
            await sent


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    with running_redis() as server:
        with client_of(server) as client:
            client.config_set("requirepass", "p@/w")
        yield server


async def test_the_password_and_the_database_are_said_first(guarded: RunningServer) -> None:
    client = connect(f"redis://:p%40%2Fw@127.0.0.1:{guarded.port}/3")
    try:
        pipe = Pipe(client, "k")
        assert await run(pipe, Echo(), ["k"], ["v"]) == [b"k", b"v"]
        count = Script("budget", "agree")
        count.text = "#!lua\nredis.call('SET', KEYS[1], ARGV[1]) return {1}"
        count.sha = "1" * 40
        await run(pipe, count, ["mine"], ["v"])
        assert await client.get("mine") == b"v", "in the same database"
    finally:
        await close(client)


async def test_a_wrong_password_is_told_without_it(guarded: RunningServer) -> None:
    client = connect(f"redis://:wrong-secret@127.0.0.1:{guarded.port}")
    try:
        with pytest.raises(StoreUnavailable) as raised:
            await run(Pipe(client, "k"), Echo(), ["k"], ["v"])
        assert "wrong-secret" not in str(raised.value) and "password" in str(raised.value)
    finally:
        await close(client)


async def test_the_primary_is_found_and_found_anew() -> None:
    with running_sentinel() as sentinel:
        client = connect(sentinel.url)
        try:
            assert await run(Pipe(client, "k"), Echo(), ["k"], ["v"]) == [b"k", b"v"]
        finally:
            await close(client)


async def test_the_primary_of_a_slot_that_died_is_looked_for_anew() -> None:
    with running_cluster() as cluster:
        client = connect(f"{cluster.url}?socket_timeout=0.5&socket_connect_timeout=0.5")
        try:
            pipe = Pipe(client, "sg:{one}:x")
            key = "sg:{one}:a"
            await run(pipe, Echo(), [key], ["v"])
            assert isinstance(client, RedisCluster)
            slot, (_, port) = client.keyslot(key), await find_primary(client, key)
            dead = next(n for n in cluster.nodes if n.port == port)
            others = [n for n in cluster.nodes if n is not dead]
            dead.kill()
            for node in others:
                with client_of(node) as plain:
                    plain.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
                    plain.execute_command("CLUSTER", "SETSLOT", slot, "NODE", _id_of(others[0]))
            with contextlib.suppress(StoreUnavailable):  # on the old connection, or to the old address
                await run(pipe, Echo(), [key], ["v"])
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        assert await run(pipe, Echo(), [key], ["w"]) == [key.encode(), b"w"]
                        break
        finally:
            await close(client)


def _id_of(node: RunningServer) -> str:
    with client_of(node) as plain:
        found = plain.execute_command("CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else str(found)


async def test_a_cluster_is_followed() -> None:
    with running_cluster() as cluster:
        client = connect(cluster.url)
        try:
            pipe = Pipe(client, "sg:{one}:x")
            assert await run(pipe, Echo(), ["sg:{one}:a"], ["v"]) == [b"sg:{one}:a", b"v"]
            # A slot of another node: the answer is MOVED, and the way there is redis-py's.
            for slot in ("two", "three", "four", "five"):
                key = f"sg:{{{slot}}}:a"
                assert await run(pipe, Echo(), [key], ["v"]) == [key.encode(), b"v"]
        finally:
            await close(client)
