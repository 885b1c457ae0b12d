"""The store's client on the hot path: scripts, many at once, on one connection.

What is asked for in one turn of the event loop leaves in one write, and answers come back in the order of the
questions; so a call costs neither a task nor a connection of its own, and what is settled before another reserve is
settled first. redis-py does all that is not hot, and finds the primary (Sentinel, cluster) for this one.

Failure policy: as that of `budget.connect`: nothing is ever sent a second time, unless the server says that it did
nothing with the first (NOSCRIPT, MOVED, ASK). A question without an answer in time takes the connection with it,
because the answers behind it can't come either: all of them fail with `StoreUnavailable`, and nobody knows whether they
were done. The next question opens a new connection.
"""

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from budget.connect import STORE_ERRORS, StoreClient, attach, find_primary, target_of
from budget.frames import packed, unpacked
from budget.script import Script
from budget.store_url import tls_context
from core.errors import SpendgateError, StoreUnavailable
from core.turn import turn_of

log = logging.getLogger("spendgate.budget")

Read = Callable[[Any], Any]

#: More than this is not a burst: the store can't keep up, and calls are refused rather than kept waiting.
MAX_WAITING = 10_000
MAX_UNSENT_BYTES = 16 * 1024 * 1024
_NOTHING = object()


class _Asked:
    """A question. command: as it is sent. read: makes the answer of its reply."""

    __slots__ = ("answer", "command", "deadline_s", "read", "script")

    def __init__(
        self, answer: "asyncio.Future[Any]", command: bytes, script: Script | None, read: Read, deadline_s: float
    ) -> None:
        self.answer = answer
        self.command = command
        self.script = script
        self.read = read
        self.deadline_s = deadline_s

    def fail(self, error: BaseException) -> None:
        """Nobody will answer it."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Line(asyncio.Protocol):
    """One connection. asked: questions without an answer, oldest first."""

    _transport: asyncio.Transport  # once it is made

    def __init__(self, pipe: "Pipe", loop: asyncio.AbstractEventLoop) -> None:
        self.asked: deque[_Asked] = deque()
        self._pipe = pipe
        self._turn = turn_of(loop)
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._doomed: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server has taken the connection."""
        self._transport = transport  # type: ignore[assignment] # of a stream, it is a Transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, asked: _Asked) -> None:
        """Put a question behind the others; they leave together at the end of this turn of the loop."""
        if not self._unsent:
            self._turn.at_last(self._flush)  # an answer does not wait for its settlement
        self._unsent.append(asked.command)
        self._unsent_bytes += len(asked.command)
        self.asked.append(asked)

    @property
    def full(self) -> bool:
        """It takes no more for now."""
        if len(self.asked) >= MAX_WAITING:
            return True
        return self._unsent_bytes + self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES

    def doom(self, why: str) -> None:
        """Take no more questions; those that the server has answered already still get their answers."""
        self._doomed = why
        self._pipe.lost(self)

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if not self._transport.is_closing():
            self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        """Some replies, or parts of them."""
        reader, asked = self._reader, self.asked
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                self._answer(asked.popleft(), reply)
        except (hiredis.ProtocolError, IndexError) as error:
            log.error("the store's answer makes no sense: %s", error)
            self.abort()
        if self._doomed is not None:
            self.abort(self._doomed)

    def _answer(self, asked: _Asked, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._pipe.refused(self, asked, str(reply))
        elif not asked.answer.done():
            _give(asked, reply)

    def drop(self) -> None:
        """Give up a connection that may not have been made."""
        if hasattr(self, "_transport"):
            self.abort()

    def abort(self, why: str = "the connection broke") -> None:
        """Drop the connection and every question on it."""
        self._transport.abort()
        self._pipe.lost(self)
        while self.asked:
            self.asked.popleft().fail(StoreUnavailable(f"the store did not answer: {why}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by whomever."""
        self.abort("the connection was closed" if exc is None else f"the connection broke ({type(exc).__name__})")


class Pipe:
    """Scripts on the server of a client. One connection, made when it is needed.

    client: of `budget.connect`; it knows the primary, and serves what is redirected.
    slot_key: any key of ours: all are in one slot of a cluster.
    """

    def __init__(self, client: StoreClient, slot_key: str) -> None:
        self._target = target = target_of(client)
        attach(client, self.close)
        self._client = client
        self._slot_key = slot_key
        self._timeout_s: float = target.options["socket_timeout"]
        self._connect_timeout_s: float = target.options["socket_connect_timeout"]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: _Line | None = None
        self._backlog: deque[_Asked] = deque()  # while there is no connection
        self._connecting: asyncio.Task[None] | None = None
        self._redirected: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def call(self, script: Script, command: bytes, read: Read) -> "asyncio.Future[Any]":
        """Run a script. command: what calls it by its hash. read: what it gives, of the reply; it may raise a
        `SpendgateError`.

        The future ends with StoreUnavailable if it is not known whether the script ran.
        """
        line = self._line
        loop = self._loop if line is not None and self._loop is not None else self._bind()
        asked = _Asked(loop.create_future(), command, script, read, loop.time() + self._timeout_s)
        if line is not None and not line.full:
            line.send(asked)
        elif self._closed or line is not None or len(self._backlog) >= MAX_WAITING:
            why = "it was closed" if self._closed else "it can't keep up, too many commands wait for it"
            asked.fail(StoreUnavailable(f"the store did not answer: {why}"))
            return asked.answer
        else:
            self._backlog.append(asked)
            if self._connecting is None:
                self._connecting = loop.create_task(self._connect(loop))
        if self._alarm is None:
            self._alarm = loop.call_at(asked.deadline_s, self._ring)
        return asked.answer

    async def close(self) -> None:
        """Drop the connection and what waits on it, for good."""
        self._closed = True
        for task in (self._connecting, *self._redirected):
            if task is not None:
                task.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._fail_backlog("it was closed")
        if self._line is not None:
            self._line.abort("it was closed")
        if self._connecting is not None:
            await asyncio.wait({self._connecting})

    def lost(self, line: _Line) -> None:
        """A connection is of no use any more."""
        if line is self._line:
            self._line = None

    def refused(self, line: _Line, asked: _Asked, why: str) -> None:
        """The server answers with an error."""
        word, loop = why.partition(" ")[0], self._loop
        if asked.script is not None and word == "NOSCRIPT" and loop is not None:
            asked.command = packed("EVAL", asked.script.text, *unpacked(asked.command)[2:])
            asked.deadline_s = loop.time() + self._timeout_s  # it goes to the end of the queue
            line.send(asked)
            return
        if asked.script is not None and word in ("MOVED", "ASK"):
            task = asyncio.ensure_future(self._follow(asked.script, asked))
            self._redirected.add(task)
            task.add_done_callback(self._redirected.discard)
        else:
            asked.fail(StoreUnavailable(f"the store did not answer: {why}"))
        if word in ("MOVED", "READONLY"):  # the primary is another one now
            line.doom(why)

    def _bind(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _ring(self) -> None:
        """Look whether the oldest question has waited too long; a timer for each would cost more than the question."""
        self._alarm = None
        loop, line = self._loop, self._line
        oldest = line.asked[0] if line is not None and line.asked else self._backlog[0] if self._backlog else None
        if loop is None or oldest is None:
            return
        if loop.time() >= oldest.deadline_s - 0.001:
            if line is not None and line.asked:
                line.abort("no answer in time")
            while self._backlog and loop.time() >= self._backlog[0].deadline_s - 0.001:
                self._backlog.popleft().fail(StoreUnavailable("the store did not answer: no connection in time"))
            self._ring()
        else:
            self._alarm = loop.call_at(oldest.deadline_s, self._ring)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make a connection and send what has come meanwhile, or fail it; then again for what came during that."""
        try:
            while self._line is None and self._backlog:
                line = _Line(self, loop)
                try:
                    async with asyncio.timeout(self._connect_timeout_s):
                        await self._dial(loop, line)
                        await self._greet(loop, line)
                except (*STORE_ERRORS, SpendgateError) as error:  # TimeoutError is an OSError
                    line.drop()
                    self._fail_backlog(str(error) or type(error).__name__)
                    await self._look_anew()
                except BaseException:
                    line.drop()
                    raise
                else:
                    self._line = line
        finally:
            self._connecting = None
        while self._backlog and self._line is not None:
            asked = self._backlog.popleft()
            if not asked.answer.done():  # or nobody waits for it any more
                self._line.send(asked)

    async def _look_anew(self) -> None:
        """A cluster may have another primary by now; redis-py finds that out when it fails to reach the old one."""
        if self._target.kind == "redis+cluster":
            with contextlib.suppress(*STORE_ERRORS):
                async with asyncio.timeout(self._connect_timeout_s):
                    await self._client.execute_command("EXISTS", self._slot_key)

    async def _dial(self, loop: asyncio.AbstractEventLoop, line: _Line) -> None:
        target = self._target
        if target.kind == "unix":
            await loop.create_unix_connection(lambda: line, target.path)
            return
        host, port = await find_primary(self._client, self._slot_key)
        await loop.create_connection(lambda: line, host, port, ssl=tls_context(target))

    async def _greet(self, loop: asyncio.AbstractEventLoop, line: _Line) -> None:
        """Say who we are and which database is meant."""
        options = self._target.options
        commands: list[bytes] = []
        if options.get("password"):
            user = (options["username"],) if options.get("username") else ()
            commands.append(packed("AUTH", *user, options["password"]))
        if options.get("db"):
            commands.append(packed("SELECT", options["db"]))
        replies = []
        for command in commands:
            answer: asyncio.Future[Any] = loop.create_future()
            line.send(_Asked(answer, command, None, lambda reply: reply, 0.0))
            replies.append(answer)
        for reply in replies:
            await reply

    async def _follow(self, script: Script, asked: _Asked) -> None:
        """What another node has to answer goes there with redis-py, which knows the way."""
        try:
            words = unpacked(asked.command)
            first_arg = 3 + int(words[2])
            reply = await script.call(self._client, [w.decode() for w in words[3:first_arg]], [*words[first_arg:]])
            if not asked.answer.done():
                _give(asked, reply)
        except STORE_ERRORS as error:
            asked.fail(StoreUnavailable(f"the store did not answer: {error}"))
        except asyncio.CancelledError:
            asked.fail(StoreUnavailable("the store did not answer: it was closed"))
            raise

    def _fail_backlog(self, why: str) -> None:
        while self._backlog:
            self._backlog.popleft().fail(StoreUnavailable(f"the store did not answer: {why}"))


def _give(asked: _Asked, reply: Any) -> None:
    try:
        asked.answer.set_result(asked.read(reply))
    except SpendgateError as error:
        asked.answer.set_exception(error)
    except Exception as error:  # the reply is not of the script that was asked for
        log.error("the store's answer makes no sense: %r", error)
        asked.answer.set_exception(StoreUnavailable("the store's answer makes no sense"))
