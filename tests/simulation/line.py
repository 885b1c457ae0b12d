"""The network between a worker and the store: what is sent may come late, twice, out of order, or never."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from budget.model import Hold, HoldStatus, Refusal, ReserveRequest, Resolution, ResolveMode, Settlement, StaleSnapshot
from budget.ports import AccountBalance, Change, Continuity, DueHold, FoundHold, OpenHold
from core.errors import SpendgateError, StoreUnavailable
from gateway.idempotency import AnswerGone, Claim, KeyReused, Replay, StillRunning
from tests.simulation.books import Books
from tests.simulation.loop import SimLoop

TIMEOUT_S = 1.0
#: Of no interest in a story, unless it goes wrong.
_CHATTER = frozenset({"look", "extend", "due", "changes_since", "find", "balances"})
_FAULTS = ("request_lost", "reply_lost", "late", "refused", "twice", "slow")


@dataclass(slots=True)
class Weather:
    """How bad it is. fault: share of the messages that something happens to. away_until_s: nobody gets through."""

    fault: float = 0.0
    away_until_s: float = -1.0


class Line:
    """`BudgetStore`, `Documents` and `AnswerMemory` of the worker `name`. What is said goes into the trace."""

    def __init__(
        self,
        name: str,
        loop: SimLoop,
        books: Books,
        weather: Weather,
        rng: Random,
        answers: "Answers",
        trace: list[tuple[Any, ...]],
    ) -> None:
        self._name = name
        self._trace = trace
        self.asked: set[str] = set()  # holds that this worker asked for
        self.decided: list[Resolution] = []  # ends that it decided
        self._loop = loop
        self._books = books
        self._weather = weather
        self._rng = rng
        self._answers = answers
        self._last_arrival_s = 0.0

    async def _call(self, verb: str, about: object, do: Callable[[], Any]) -> Any:
        loop, rng = self._loop, self._rng
        reply: asyncio.Future[Any] = asyncio.Future(loop=loop)
        fault = _FAULTS[int(rng.random() * len(_FAULTS))] if rng.random() < self._weather.fault else ""
        if loop.time() < self._weather.away_until_s:
            fault = "refused" if rng.random() < 0.7 else "request_lost"
        there_s, back_s = rng.random() * 0.004, rng.random() * 0.004
        if fault == "slow":
            there_s, back_s = rng.random() * TIMEOUT_S * 0.6, rng.random() * TIMEOUT_S * 0.6
        if fault == "late":
            there_s = TIMEOUT_S * (0.5 + 3 * rng.random())
        if fault != "late":  # one connection: what was sent first arrives first, unless it is lost on the way
            there_s = max(there_s, self._last_arrival_s - loop.time())
            self._last_arrival_s = loop.time() + there_s
        if fault or verb not in _CHATTER:
            self._trace.append((loop.time(), self._name, verb, about, fault))
        if fault == "refused":
            _at(loop, 0.001, _fail, reply)
        elif fault == "request_lost":
            _at(loop, TIMEOUT_S, _fail, reply)
        else:
            certain = fault in ("", "twice")  # an answer that comes in time needs no clock
            timeout = None if certain else _at(loop, TIMEOUT_S, _fail, reply)
            _at(loop, there_s, self._arrive, do, reply, back_s, fault == "reply_lost", timeout)
            if fault == "twice":
                # A refusal is not remembered: what asks twice for a hold must bar it, as the service does.
                again_s = rng.random() * 3 * (verb != "reserve")
                _at(loop, there_s + again_s, self._again, do)
        return await reply

    def _arrive(
        self, do: Callable[[], Any], reply: "asyncio.Future[Any]", back_s: float, lost: bool, clock: Any
    ) -> None:
        try:
            answer, error = do(), None
        except SpendgateError as raised:
            answer, error = None, raised
        if not lost and not reply.done():
            _at(self._loop, back_s, _answer, reply, answer, error, clock)

    def _again(self, do: Callable[[], Any]) -> None:
        try:
            do()
        except SpendgateError:
            return

    async def _verb(self, verb: str, *args: Any) -> Any:
        return await self._call(verb, args[0] if args else None, lambda: self._books.do(verb, args))

    async def reserve(self, request: ReserveRequest) -> Hold | Refusal | StaleSnapshot:
        self.asked.add(request.hold_id)
        answer: Hold | Refusal | StaleSnapshot = await self._verb("reserve", request)
        return answer

    async def resolve(self, resolution: Resolution) -> Settlement:
        if resolution.mode in (ResolveMode.SETTLE, ResolveMode.VOID):
            self.decided.append(resolution)
        if resolution.next_hold:
            self.asked.add(resolution.next_hold.id)
        answer: Settlement = await self._verb("resolve", resolution)
        return answer

    @property
    def epoch(self) -> str | None:
        return self._books.memory.epoch

    async def look(self) -> Continuity:
        answer: Continuity = await self._verb("look")
        return answer

    def join(self, epoch: str, sequence: int) -> None:
        """This store never loses its memory."""

    async def restore(self, hold: OpenHold, lease_ms: int) -> HoldStatus:
        raise NotImplementedError

    async def extend(self, hold_ids: Sequence[str], lease_ms: int) -> list[str]:
        answer: list[str] = await self._verb("extend", hold_ids, lease_ms) if hold_ids else []
        return answer

    async def find(self, hold_id: str) -> FoundHold | None:
        answer: FoundHold | None = await self._verb("find", hold_id)
        return answer

    async def due(self, limit: int) -> list[DueHold]:
        answer: list[DueHold] = await self._verb("due", limit)
        return answer

    async def balances(self, account_ids: Sequence[str]) -> list[AccountBalance]:
        answer: list[AccountBalance] = await self._verb("balances", account_ids)
        return answer

    async def current_accounts(self, now_ms: int) -> list[str]:
        answer: list[str] = await self._verb("current_accounts", now_ms)
        return answer

    async def changes_since(self, version: int) -> tuple[int, list[Change]]:
        answer: tuple[int, list[Change]] = await self._verb("changes_since", version)
        return answer

    async def put(self, kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        raise NotImplementedError

    async def claim(self, name: str, fingerprint: str, holder: str) -> Claim | Replay:
        answer: Claim | Replay = await self._call("claim", name, lambda: self._answers.claim(name, fingerprint, holder))
        return answer

    async def finish(self, claim: Claim, answer: Replay | None) -> None:
        await self._quietly("finish", claim, lambda: self._answers.finish(claim, answer))

    async def release(self, claim: Claim) -> None:
        await self._quietly("release", claim, lambda: self._answers.release(claim))

    async def _quietly(self, verb: str, claim: Claim, do: Callable[[], Any]) -> None:
        try:
            await self._call(verb, claim.name, do)
        except StoreUnavailable:
            return


def _at(loop: SimLoop, after_s: float, call: Callable[..., object], *args: Any) -> Any:
    return loop.call_at(loop.time() + after_s, call, *args, context=loop.outside)


def _fail(reply: "asyncio.Future[Any]") -> None:
    if not reply.done():
        reply.set_exception(StoreUnavailable("no answer"))


def _answer(reply: "asyncio.Future[Any]", answer: Any, error: SpendgateError | None, clock: Any) -> None:
    if reply.done():
        return
    if clock is not None:
        clock.cancel()
    if error is None:
        reply.set_result(answer)
    else:
        reply.set_exception(error)


@dataclass(slots=True)
class _Answer:
    fingerprint: str
    status: str
    until_s: float
    holder: str
    tries: int = 0
    answer: Replay | None = None


class Answers:
    """What the store remembers of idempotent requests: `claim_answer.lua` and `end_claim.lua` in Python."""

    def __init__(self, loop: SimLoop, running_s: float) -> None:
        self._loop = loop
        self._running_s = running_s
        self._rows: dict[str, _Answer] = {}

    def claim(self, name: str, fingerprint: str, holder: str) -> Claim | Replay:
        """Take the key.

        Raises:
            KeyReused, StillRunning, AnswerGone: it is taken.
        """
        row = self._rows.get(name)
        if row and row.until_s <= self._loop.time():
            row = None
        if row and row.fingerprint != fingerprint:
            raise KeyReused("another request")
        if row and row.status == "running":
            raise StillRunning("it runs")
        if row and row.status == "done":
            if row.answer is None:
                raise AnswerGone("too large")
            return row.answer
        tries = row.tries if row else 0
        self._rows[name] = _Answer(fingerprint, "running", self._loop.time() + self._running_s, holder, tries)
        return Claim(name, tries, holder)

    def finish(self, claim: Claim, answer: Replay | None) -> None:
        """Remember the answer."""
        if row := self._ending(claim):
            row.status, row.answer = "done", answer

    def release(self, claim: Claim) -> None:
        """The next try may come."""
        if row := self._ending(claim):
            row.status, row.tries = "free", claim.tries + 1

    def _ending(self, claim: Claim) -> _Answer | None:
        row = self._rows.get(claim.name)
        if row is None or row.until_s <= self._loop.time() or row.holder != claim.holder:
            return None
        row.until_s, row.holder = self._loop.time() + 86_400, ""
        return row
