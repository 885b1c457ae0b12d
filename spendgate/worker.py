"""A worker process: one event loop, one application, on a socket that the supervisor has bound.

Started as ``python -m spendgate.worker --fd N --parent-fd M``; everything else comes from the environment. When the
supervisor dies, its end of the pipe closes and the worker drains and exits, so that no orphan serves.
"""

import argparse
import gc
import socket
import sys
from collections.abc import Callable

import uvicorn

from core.errors import SpendgateError
from gateway.connection import connections
from spendgate.compose import build
from spendgate.logs import set_up_logging
from spendgate.orphans import stop_with_parent
from spendgate.settings import read_settings


def main() -> int:
    """Serve until told to stop; the process's exit code."""
    parser = argparse.ArgumentParser(prog="spendgate worker")
    parser.add_argument("--fd", type=int, required=True, help="listening socket")
    parser.add_argument("--parent-fd", type=int, required=True, help="pipe that closes when the supervisor dies")
    arguments = parser.parse_args()
    try:
        settings = read_settings()
        set_up_logging(settings.log_level)
        worker, app = build(settings, settings.redis_url or "")
    except SpendgateError as error:
        print(f"spendgate: {error.message}", file=sys.stderr)
        return 78  # EX_CONFIG: starting again would not help
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=connections(worker.hot, settings.client_timeout_s),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_keep_alive=75,
        backlog=4096,
    )
    stop_with_parent(arguments.parent_fd)
    _collect_seldom()
    _DrainingServer(config, worker.drain).run(sockets=[socket.socket(fileno=arguments.fd)])
    return 0


def _collect_seldom() -> None:
    """What is loaded by now stays, and a call leaves no cycles behind: Python's defaults would look through everything
    every few hundred calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class _DrainingServer(uvicorn.Server):
    """Tells the worker to admit nothing new as soon as a stop is asked for."""

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_drain()
        await super().shutdown(sockets)


if __name__ == "__main__":
    sys.exit(main())
