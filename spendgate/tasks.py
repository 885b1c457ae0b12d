"""Background tasks."""

import asyncio
from collections.abc import Iterable


async def stop_all(tasks: "Iterable[asyncio.Task[None]]") -> None:
    """Cancel tasks until all have ended.

    Once is not enough: redis-py 8.1 loses most cancellations that arrive while it waits for a reply, and the task
    goes on as if nothing had been said.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=0.05)
        for task in ended:
            if not task.cancelled():
                task.exception()  # seen; whoever runs it has said it
