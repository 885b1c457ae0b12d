"""The rig of the benchmark plays a store and a provider: they must answer as the real ones do."""

import asyncio

from bench.call_cost import Rig


async def test_the_played_path_answers_calls() -> None:
    async with asyncio.timeout(20):
        assert await Rig(asyncio.get_running_loop()).run(64) > 0
