"""Accounts whose money has moved, for pages (server-sent events) and programs (a WebSocket): the same events for both.

One reader in each process feeds all who listen, and reads nothing while nobody does. It looks at the store's count of
events once a second, and asks only for accounts that events name; for all after many events, when a budget has
changed, and when a period ends.

A listener who is slower than the money keeps the newest state of each account and no more. All end when the process
drains: a page that is open must not keep it from stopping.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from fastapi import WebSocket, WebSocketDisconnect

from core.errors import SpendgateError, Unauthorized
from core.keys import KeyRole
from core.money import format_usd
from dashboard import formats
from dashboard.deps import Deps
from dashboard.session import Sessions, check_origin
from dashboard.spend import AccountSpend, current_spend, spend_of

_LOOK_EVERY_S = 1.0
#: With more events than this between two looks it is cheaper to read all accounts.
_MANY_EVENTS = 2_000
#: The first events that are read may have been told of already: clocks differ by so much at most.
_OVERLAP_MS = 5_000
_NEVER_MS = 2**63
#: What ends a WebSocket whose key was taken away, and one of a process that drains (RFC 6455, section 7.4.1).
_NOT_ALLOWED = 1008
_GOING_AWAY = 1001


class Listener:
    """Somebody who is told what moves. ended: there will be nothing more."""

    def __init__(self) -> None:
        self.ended = False
        self._begun = False
        self._moved: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Event()

    def tell(self, moved: dict[str, dict[str, Any]]) -> None:
        """These accounts are so now. The first time is all there are, be it none."""
        if moved or not self._begun:
            self._begun = True
            self._moved |= moved
            self._news.set()

    def end(self) -> None:
        """Nothing more will be told."""
        self.ended = True
        self._news.set()

    async def next(self) -> list[dict[str, Any]] | None:
        """What has moved since the last time, once anything has; None: there will be nothing more."""
        await self._news.wait()
        if self.ended:
            return None
        self._news.clear()
        moved, self._moved = self._moved, {}
        return list(moved.values())


class Moves:
    """The one reader."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._listeners: set[Listener] = set()
        self._reading: asyncio.Task[None] | None = None
        self._forget()

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """Be told, beginning with every account as it is."""
        listener = Listener()
        if self._counted >= 0:
            listener.tell(self._shown)
        self._listeners.add(listener)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _forget(self) -> None:
        self._counted = -1
        self._after = ""
        self._until_ms = 0
        self._shown: dict[str, dict[str, Any]] = {}

    async def _read(self) -> None:
        stopping = self._deps.stopping
        try:
            while self._listeners and not stopping.is_set():
                with contextlib.suppress(SpendgateError):  # the store is away: everybody keeps what they have
                    await self._look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), _LOOK_EVERY_S)
        finally:
            for listener in self._listeners:
                listener.end()
            self._forget()

    async def _look(self) -> None:
        deps, sequence = self._deps, (await self._deps.store.look()).sequence
        now_ms = deps.clock.now_ms()
        over = now_ms >= self._until_ms
        if sequence == self._counted and not over:
            return
        few = 0 <= sequence - self._counted <= _MANY_EVENTS and not over
        named = await self._named() if few and self._after else None
        if named is None:
            self._after = f"{now_ms - _OVERLAP_MS}-0"
            await deps.refresh()
            rows = await current_spend(deps.store, deps.book, now_ms)
        else:
            rows = await spend_of(deps.store, deps.book, named, now_ms)
        now = {row.terms.id: cells(row) for row in rows}
        moved = {account: one for account, one in now.items() if self._shown.get(account) != one}
        ends = [row.terms.until_ms for row in rows if row.terms.until_ms is not None]
        if named is None:
            moved |= {account: {"account": account, "ended": True} for account in self._shown.keys() - now.keys()}
            self._until_ms = min(ends, default=_NEVER_MS)
            self._shown = now
        else:
            self._until_ms = min([self._until_ms, *ends])
            self._shown |= now
        self._counted = sequence
        for listener in self._listeners:
            listener.tell(moved)

    async def _named(self) -> Sequence[str] | None:
        """The accounts that new events name; None: it may be any."""
        named: set[str] = set()
        while rows := [row for row in await self._deps.store.events(self._after, 1_001) if row[0] != self._after]:
            for _, fields in rows:
                if fields["type"] == "document":
                    return None
                named.update(fields.get("accounts", fields.get("account", "")).split("\n"))
            self._after = rows[-1][0]
        return sorted(named - {""})


def cells(row: AccountSpend) -> dict[str, Any]:
    """An account as its row on a page shows it, and in exact dollars for programs."""
    terms = row.terms
    return {
        "account": terms.id,
        "scope": str(terms.scope),
        "budgetId": terms.budget.id,
        "inForce": row.in_force,
        "spent": formats.money(row.spent_nano),
        "held": formats.money(row.held_nano),
        "left": formats.money(row.hard_remaining_nano),
        "share": formats.share(row.spent_nano, terms.limit_nano),
        "state": row.state.label,
        "icon": formats.STATE_ICONS[row.state],
        "spentUsd": format_usd(row.spent_nano),
        "heldUsd": format_usd(row.held_nano),
        "limitUsd": format_usd(terms.limit_nano),
    }


class Socket:
    """`/ws/events`: for each second in which money moved, a JSON list of the accounts that it moved on."""

    def __init__(self, deps: Deps, sessions: Sessions, moves: Moves) -> None:
        self._deps = deps
        self._sessions = sessions
        self._moves = moves

    async def serve(self, socket: WebSocket) -> None:
        """One connection. Who may not listen gets 403 in place of the upgrade; a key that is taken away ends it."""
        try:
            self._check(socket)
        except SpendgateError:
            await socket.close(_NOT_ALLOWED)
            return
        await socket.accept()
        async with self._moves.listen() as listener:
            leaving = asyncio.create_task(_left(socket))
            try:
                while not leaving.done():
                    telling = asyncio.create_task(listener.next())
                    await asyncio.wait({leaving, telling}, return_when=asyncio.FIRST_COMPLETED)
                    if not telling.done():
                        telling.cancel()
                        break
                    if (moved := telling.result()) is None:
                        await socket.close(_GOING_AWAY)
                        break
                    self._check(socket)
                    await socket.send_text(orjson.dumps(moved).decode())
            except SpendgateError:
                await socket.close(_NOT_ALLOWED)
            except WebSocketDisconnect:
                return
            finally:
                leaving.cancel()

    def _check(self, socket: WebSocket) -> None:
        """The admin key as everywhere, or the session of a page that is ours."""
        authorization = socket.headers.get("authorization", "")
        scheme, _, credential = authorization.partition(" ")
        text = credential.strip() if scheme.lower() == "bearer" else socket.headers.get("x-api-key")
        if text:
            self._deps.keys.authenticate(text, KeyRole.ADMIN)
            return
        if not socket.headers.get("origin"):
            raise Unauthorized("a browser says where it comes from")
        check_origin(socket)
        self._sessions.check(socket)


async def _left(socket: WebSocket) -> None:
    """Return when the client has gone; what it says is not listened to."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
