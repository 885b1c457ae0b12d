"""What the store remembers of idempotent requests, on a real server."""

from collections.abc import AsyncIterator

import pytest

from budget.connect import close, connect
from gateway.idempotency import Claim, RedisAnswerMemory, Replay, StillRunning
from tests.support.stores import running_valkey

ANSWER = Replay(200, "x: y\r\n", b"text")


@pytest.fixture
async def memory() -> AsyncIterator[RedisAnswerMemory]:
    with running_valkey() as server:
        client = connect(server.url)
        yield RedisAnswerMemory(client, namespace="n", running_ms=60_000)
        await close(client)


async def claimed(memory: RedisAnswerMemory, holder: str) -> Claim:
    claim = await memory.claim("key", "fingerprint", holder)
    assert isinstance(claim, Claim)
    return claim


async def test_a_claim_is_released_once_and_a_late_second_time_frees_nobody_elses(memory: RedisAnswerMemory) -> None:
    first = await claimed(memory, "first")
    await memory.release(first)
    second = await claimed(memory, "second")
    assert (first.tries, second.tries) == (0, 1)
    await memory.release(first)
    with pytest.raises(StillRunning):
        await memory.claim("key", "fingerprint", "third")
    await memory.finish(second, ANSWER)
    await memory.release(second)
    assert await memory.claim("key", "fingerprint", "third") == ANSWER


async def test_a_claim_that_ran_out_leaves_no_answer_behind_that_any_request_would_get(
    memory: RedisAnswerMemory,
) -> None:
    await memory.finish(Claim("key", 0, "ran out"), ANSWER)
    assert (await claimed(memory, "next")).tries == 0
