"""How commands and scripts reach the live state, and what this process knows of its memory.

The store has an epoch and counts its events (lua/epoch.lua). A link remembers both and says them with every script;
a store that has lost or rolled back its memory is noticed by that, and everything is refused until
`budget.rebuild` has rebuilt it.

Failure policy: any error of the store (no connection, no memory, read-only, disk full) is `StoreUnavailable`; a
memory that can't be trusted is `StoreLost`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from budget.connect import STORE_ERRORS, StoreClient
from budget.pipe import Pipe, Read
from budget.ports import Continuity
from budget.script import Script
from core.errors import StoreLost, StoreUnavailable

Command = Callable[[str, int], bytes]

#: The epoch that a rebuild works in: writes are taken from it alone while the store is in doubt.
REBUILDING = "rebuild"


@dataclass(frozen=True, slots=True)
class Acks:
    """Who else must have a hold before its call may leave.

    replicas: how many of them. fsync: also the primary's own disk, and theirs. timeout_ms: how long it may take.
    """

    replicas: int = 0
    fsync: bool = False
    timeout_ms: int = 500

    @property
    def wanted(self) -> bool:
        """Whether anybody is waited for."""
        return self.replicas > 0 or self.fsync

    def command(self) -> tuple[str | int, ...]:
        """What asks for them, after the write on the same connection."""
        if self.fsync:
            return "WAITAOF", 1, self.replicas, self.timeout_ms
        return "WAIT", self.replicas, self.timeout_ms

    def check(self, reply: Any) -> None:
        """Raises `StoreUnavailable` if the reply says that some are missing."""
        disks, replicas = reply if self.fsync else (1, reply)
        if disks < 1 or replicas < self.replicas:
            where = "on the disks" if self.fsync else "on replicas"
            raise StoreUnavailable(
                f"a hold is not {where} within {self.timeout_ms} ms: {replicas} of {self.replicas} replicas have it"
            )


NOBODY = Acks()


class Link:
    """One namespace on a server or cluster.

    acks: who must have a hold; only on a single primary.
    epoch: the one that this process works in; None: not known yet, and read before the first script.
    sequence: the highest that it has seen there.
    """

    def __init__(self, client: StoreClient, namespace: str, acks: Acks = NOBODY) -> None:
        self.client = client
        self.acks = acks
        self._prefix = f"sg:{{{namespace}}}:"
        self._keys = (self.key("epoch"), self.key("events"))
        self.pipe = Pipe(client, self._keys[0])
        self.epoch: str | None = None
        self.sequence = 0

    def key(self, *parts: str) -> str:
        """The full name of a key of this namespace."""
        return self._prefix + ":".join(parts)

    async def look(self) -> Continuity:
        """What the store says of its memory.

        Raises:
            StoreUnavailable: it does not answer.
        """
        rows = await self.command("HGETALL", self.key("epoch"))
        pairs = rows.items() if isinstance(rows, dict) else zip(rows[0::2], rows[1::2], strict=True)
        fields = {name.decode(): value.decode() for name, value in pairs}
        return Continuity(
            epoch=fields.get("id"),
            sequence=int(fields.get("seq", 0)),
            doubt=fields.get("doubt"),
            archived=int(fields.get("archived", 0)),
            past=frozenset(n.removeprefix("was:") for n in fields if n.startswith("was:")),
        )

    def join(self, epoch: str, sequence: int) -> None:
        """Work in this epoch from now on, where so many events have been counted."""
        if epoch == self.epoch:
            sequence = max(sequence, self.sequence)
        self.epoch, self.sequence = epoch, sequence

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], read: Read | None = None
    ) -> Awaitable[Any]:
        """The reply of a script that writes. keys, args: its own, after those of lua/epoch.lua.

        read, Raises: as `send`.
        """
        all_keys = [*self._keys, *keys]
        return self.send(
            script, lambda epoch, seen: script.command(all_keys, [epoch, str(seen), *args]), read or trusted
        )

    def send(self, script: Script, command: Command, read: Read, *, acknowledged: bool = False) -> Awaitable[Any]:
        """The same for a command that is packed already. It is on its way when this returns, unless the epoch is not
        known yet.

        command: what is sent, with an epoch and the highest sequence that was seen in it.
        read: what is made of the reply; it begins with `trusted`, and may raise a `SpendgateError`.
        acknowledged: what it wrote must reach those whom `acks` names.

        Raises:
            StoreUnavailable: it is not known whether it ran.
            StoreLost: it did not run.
        """
        epoch = self.epoch
        if epoch is None or (acknowledged and self.acks.wanted):
            return self._slowly(script, command, read, acknowledged)
        return self.pipe.call(script, command(epoch, self.sequence), read)

    async def _slowly(self, script: Script, command: Command, read: Read, acknowledged: bool) -> Any:
        """The same where something comes before or after it."""
        if self.epoch is None:
            found = await self.look()
            if found.epoch is None:
                raise StoreLost("it has no books")
            self.join(found.epoch, found.sequence)
        if not (acknowledged and self.acks.wanted and isinstance(self.client, Redis)):
            return await self.send(script, command, read)
        try:
            reply = await self._acknowledged(self.client, script, command(self.epoch or "", self.sequence))
        except STORE_ERRORS as error:
            raise StoreUnavailable(f"the store did not answer: {error}") from error
        return read(reply)

    async def _acknowledged(self, client: Redis, script: Script, command: bytes) -> bytes | list[bytes]:
        """WAIT looks back to the last write of its connection: one is made in any case, also for a repeated hold."""
        touch = ("SET", self.key("touched"), "")
        replies = await script.call_then(client, command, touch, self.acks.command())
        reply: bytes | list[bytes] = replies[0]
        if isinstance(reply, bytes):  # it holds
            self.acks.check(replies[2])
        return reply

    def saw(self, sequence: int | bytes, epoch: str | None) -> None:
        """Remember how far the store had counted, unless the answer is to a question from another epoch."""
        if epoch == self.epoch:
            self.sequence = max(self.sequence, int(sequence))

    async def command(self, name: str, key: str, *args: str | bytes) -> Any:
        """One raw command; `key` routes it to its node on a cluster (TIME takes none, but must ask that node).

        Raises:
            StoreUnavailable: the store does not answer, or refuses.
        """
        try:
            if name != "TIME":
                return await self.client.execute_command(name, key, *args)
            if isinstance(self.client, Redis):
                return await self.client.execute_command("TIME")  # type: ignore[no-untyped-call]
            await self.client.initialize()  # a cluster's slots are not known before
            node = self.client.get_node_from_key(key)
            return await self.client.execute_command("TIME", target_nodes=node)
        except STORE_ERRORS as error:
            raise StoreUnavailable(f"the store did not answer: {error}") from error


_LOST = frozenset({b"lost", b"moved", b"foreign"})


def trusted(reply: list[Any]) -> list[Any]:
    """The reply of a script that begins with lua/epoch.lua.

    Raises:
        StoreLost: the store says that its memory is not what the caller takes it for.
    """
    if reply[0] in _LOST:
        raise _lost(reply)
    return reply


def _lost(reply: list[Any]) -> StoreLost:
    if reply[0] == b"lost":
        return StoreLost(reply[1].decode())
    if reply[0] == b"moved":
        return StoreLost("it was rebuilt, and this worker has not caught up yet")
    return StoreLost("its books are not those that this worker began with")
