"""A key that another worker has just made works at once, for everybody; guessing keys costs the store little."""

import asyncio

import pytest

from core.clock import SystemClock
from core.errors import StoreUnavailable, Unauthorized
from core.keys import ApiKey, KeyRing, KeyRole, digest_of, new_key_text
from gateway.auth import Authenticator


def key() -> tuple[str, ApiKey]:
    key_id, text = new_key_text(KeyRole.AGENT)
    return text, ApiKey(key_id, "bot", KeyRole.AGENT, digest_of(text), (), (), 0, "api")


class Ring:
    """A worker's keys, and those that the store has."""

    def __init__(self) -> None:
        self.known, self.read, self.fails = KeyRing(), 0, False
        self.stored: list[ApiKey] = []
        self.auth = Authenticator(self.known, SystemClock(), self.refresh)

    async def refresh(self) -> None:
        self.read += 1
        await asyncio.sleep(0.01)
        if self.fails:
            raise StoreUnavailable("away")
        for stored in self.stored:
            self.known.put(stored)

    async def ask(self, text: str) -> ApiKey:
        return await self.auth.authenticate({"authorization": f"Bearer {text}"})


async def test_a_crowd_with_a_new_key_is_known_after_one_reading():
    ring, (text, made) = Ring(), key()
    ring.stored.append(made)
    assert await asyncio.gather(*(ring.ask(text) for _ in range(100))) == [made] * 100
    assert ring.read == 1


async def test_a_key_that_is_made_while_the_keys_are_read_is_known_too():
    ring, (early, first), (late, second) = Ring(), key(), key()
    ring.stored.append(first)
    waiting = asyncio.create_task(ring.ask(early))
    await asyncio.sleep(0.02)
    ring.stored.append(second)
    assert await ring.ask(late) == second
    assert await waiting == first


async def test_guessing_is_slow_and_reads_little():
    ring = Ring()
    answers = await asyncio.gather(*(ring.ask(key()[0]) for _ in range(200)), return_exceptions=True)
    assert {type(a) for a in answers} == {Unauthorized}
    assert ring.read == 1


async def test_a_request_without_a_key_reads_nothing():
    ring = Ring()
    with pytest.raises(Unauthorized):
        await ring.auth.authenticate({})
    assert ring.read == 0


async def test_a_store_that_is_away_is_said():
    ring = Ring()
    ring.fails = True
    with pytest.raises(StoreUnavailable):
        await ring.ask(key()[0])
