import asyncio
import logging

import pytest

from core.turn import Turn, turn_of


def crowded() -> Turn:
    """The turns of a loop in which more than one call runs."""
    turn = Turn(asyncio.get_running_loop())
    turn.crowd = 2
    return turn


async def test_what_is_put_off_is_done_in_its_order_after_what_the_turn_has_to_do() -> None:
    loop = asyncio.get_running_loop()
    turn, done = crowded(), list[str]()
    loop.call_soon(done.append, "already there")
    turn.at_end(lambda: done.append("first"))
    turn.at_end(lambda: done.append("second"))
    await asyncio.sleep(0)
    assert done == ["already there", "first", "second"]


async def test_it_can_be_done_at_once_and_then_only_once() -> None:
    turn, done = crowded(), list[str]()
    turn.at_end(lambda: done.append("first"))
    turn.end()
    assert done == ["first"]
    turn.at_end(lambda: done.append("second"))
    await asyncio.sleep(0)
    assert done == ["first", "second"]


async def test_what_an_act_puts_off_is_done_too() -> None:
    turn, done = crowded(), list[str]()
    turn.at_end(lambda: turn.at_end(lambda: done.append("later")))
    turn.end()
    assert done == []
    turn.end()
    assert done == ["later"]


async def test_one_that_fails_does_not_take_the_others_along(caplog: pytest.LogCaptureFixture) -> None:
    turn, done = crowded(), list[str]()
    turn.at_end(lambda: 1 / 0)
    turn.at_end(lambda: done.append("second"))
    with caplog.at_level(logging.ERROR, "spendgate"):
        turn.end()
    assert done == ["second"] and "ZeroDivisionError" in caplog.text


async def test_who_is_alone_waits_for_nobody() -> None:
    turn, done = Turn(asyncio.get_running_loop()), list[str]()
    turn.crowd = 1
    turn.at_end(lambda: done.append("at once"))
    assert done == ["at once"]


@pytest.mark.parametrize("crowd", [1, 2])
async def test_what_comes_last_comes_after_what_was_put_off_later(crowd: int) -> None:
    turn, done = Turn(asyncio.get_running_loop()), list[str]()
    turn.crowd = crowd
    turn.at_last(lambda: done.append("last"))
    turn.at_end(lambda: done.append("first"))
    assert "last" not in done
    await asyncio.sleep(0)
    assert done == ["first", "last"]


def test_each_loop_has_its_own() -> None:
    async def mine() -> bool:
        loop = asyncio.get_running_loop()
        return turn_of(loop) is turn_of(loop) and turn_of(loop).loop is loop

    assert asyncio.run(mine()) and asyncio.run(mine())
