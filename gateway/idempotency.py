"""`Idempotency-Key`: a client that asks again is not charged again.

Same key and request while it runs: 409 with `Retry-After`. After its end: the same answer, marked as replayed. Same
key and another request: 422. A call that failed without an answer may be made again under its key.

A key belongs to the API key that sent it. The hold's id is derived from both and from the number of the try: if the
worker dies, the claim ends with the longest call, and a retry meets the hold that was charged; it is refused rather
than charged twice.

Failure policy: while the store is away no claim can be made, so no call is.
"""

import base64
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import orjson

from budget.connect import STORE_ERRORS, StoreClient
from budget.script import Script
from core.errors import Conflict, InvalidInput, SpendgateError, StoreUnavailable
from core.values import value
from gateway.http import Answering

log = logging.getLogger("spendgate.gateway")

_MAX_KEY_CHARS = 255
_MAX_ANSWER_BYTES = 1024 * 1024
_KEEP_MS = 86_400_000
_TOO_LARGE = b"too large"


class StillRunning(Conflict):
    """The request with this key has not ended."""

    code = "idempotency_running"
    retry_after_s = 1


class KeyReused(SpendgateError):
    """The key was used for another request."""

    status = 422
    code = "idempotency_key_reused"


class AnswerGone(Conflict):
    """The request with this key was answered and charged, but its answer is too large to be kept."""

    code = "idempotency_answer_gone"


@value
class Claim:
    """A key that this request may use. tries: how often a request under it has failed before. holder: this claim."""

    name: str
    tries: int
    holder: str


@value
class Replay:
    """The answer that this request had. lines: its headers."""

    status: int
    lines: str
    body: bytes


class AnswerMemory(Protocol):
    """Remembers answers by key."""

    async def claim(self, name: str, fingerprint: str, holder: str) -> Claim | Replay:
        """Take the key for a request; only this holder can end the claim.

        Raises:
            StillRunning, KeyReused, AnswerGone: it is taken. StoreUnavailable: it can't be known.
        """
        ...

    async def finish(self, claim: Claim, answer: Replay | None) -> None:
        """Remember the answer; None: it can't be kept."""
        ...

    async def release(self, claim: Claim) -> None:
        """The request failed: the key may be used again."""
        ...


class RedisAnswerMemory:
    """`AnswerMemory` beside the accounts; running_ms: longer than any call takes."""

    def __init__(self, client: StoreClient, *, namespace: str, running_ms: int) -> None:
        self._client = client
        self._prefix = f"sg:{{{namespace}}}:answer:"
        self._running_ms = running_ms
        self._claim = Script("gateway", "claim_answer")
        self._end = Script("gateway", "end_claim")

    async def claim(self, name: str, fingerprint: str, holder: str) -> Claim | Replay:
        """Take the key for a request."""
        try:
            reply = await self._claim.call(
                self._client, [self._prefix + name], [fingerprint, str(self._running_ms), holder]
            )
        except STORE_ERRORS as error:
            raise StoreUnavailable(f"the store did not answer: {error}") from error
        if reply[0] == b"claimed":
            return Claim(name, int(reply[1]), holder)
        if reply[0] == b"differs":
            raise KeyReused("this Idempotency-Key was used for another request")
        if reply[0] == b"running":
            raise StillRunning("the request with this Idempotency-Key is still running")
        if reply[1] == _TOO_LARGE:
            raise AnswerGone("the request with this Idempotency-Key was answered; its answer was too large to be kept")
        return _decode(reply[1])

    async def finish(self, claim: Claim, answer: Replay | None) -> None:
        """Remember the answer."""
        await self._write(claim, "done", "answer", _encode(answer) if answer else _TOO_LARGE)

    async def release(self, claim: Claim) -> None:
        """The request failed: the key may be used again, by the next try."""
        await self._write(claim, "free", "tries", str(claim.tries + 1))

    async def _write(self, claim: Claim, status: str, field_name: str, value: str | bytes) -> None:
        args = [claim.holder, str(_KEEP_MS), status, field_name, value]
        try:
            await self._end.call(self._client, [self._prefix + claim.name], args)
        except STORE_ERRORS as error:
            log.error("an idempotency key stays claimed until its time is over: %s", error)


@dataclass(slots=True)
class Recorder:
    """Passes an answer on and keeps it, up to a limit of size. The last of it goes out when it is kept: a client that
    asks again as soon as it has its answer must find it.
    """

    to: Answering
    claim: Claim
    memory: AnswerMemory
    status: int = 0
    lines: str = ""
    body: bytearray = field(default_factory=bytearray)
    _last: Callable[[], None] | None = None

    def answer(self, status: int, lines: str, body: bytes, *, close: bool = False) -> None:
        """A whole answer."""
        self.status, self.lines = status, lines
        self.body += body
        self._last = partial(self.to.answer, status, lines, body, close=close)

    def begin(self, status: int, lines: str) -> None:
        """The head of an answer in pieces."""
        self.status, self.lines = status, lines
        self.to.begin(status, lines)

    def write(self, data: bytes) -> None:
        """A piece of it."""
        self._keep(data)
        self.to.write(data)

    @property
    def full(self) -> bool:
        """As below."""
        return self.to.full

    async def drained(self) -> None:
        """As below."""
        await self.to.drained()

    def end(self, data: bytes) -> None:
        """The last piece."""
        self._keep(data)
        self._last = partial(self.to.end, data)

    def _keep(self, data: bytes) -> None:
        if len(self.body) <= _MAX_ANSWER_BYTES:
            self.body += data

    async def close(self) -> None:
        """Remember a whole, good answer, and give the client its end; anything else frees the key."""
        if self.status != 200 or self._last is None:
            await self.memory.release(self.claim)
        elif len(self.body) > _MAX_ANSWER_BYTES:
            await self.memory.finish(self.claim, None)
        else:
            await self.memory.finish(self.claim, Replay(self.status, self.lines, bytes(self.body)))
        if self._last is not None:
            self._last()


def claim_name(key_id: str, key: str) -> str:
    """Under which name a key of this API key is kept.

    Raises:
        InvalidInput: the header is empty or too long.
    """
    if not 1 <= len(key) <= _MAX_KEY_CHARS:
        raise InvalidInput("Idempotency-Key", f"must have 1 to {_MAX_KEY_CHARS} characters")
    return hashlib.sha256(f"{key_id}\x00{key}".encode()).hexdigest()


def fingerprint(path: str, raw: bytes, chain: tuple[Any, ...]) -> str:
    """What makes two requests the same: path, body, and who pays."""
    return hashlib.sha256(b"\x00".join([path.encode(), str([str(s) for s in chain]).encode(), raw])).hexdigest()


def _encode(answer: Replay) -> bytes:
    body = base64.b64encode(answer.body).decode()
    return orjson.dumps({"status": answer.status, "lines": answer.lines, "body": body})


def _decode(text: bytes) -> Replay:
    data = orjson.loads(text)
    return Replay(data["status"], data["lines"], base64.b64decode(data["body"]))
