"""Running the simulator: in this process until it is told to stop, and as ``python -m simulator``."""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from core.errors import ConfigError, InvalidInput
from simulator.app import create_app
from simulator.settings import SimulatorSettings, parse_settings

_BACKLOG = 2048
_GRACE_S = 2
_KEEP_ALIVE_S = 75


def run(host: str, port: int, settings: SimulatorSettings, *, ready_fd: int | None = None) -> None:
    """Serve until SIGINT or SIGTERM; blocks. Prints one line with the address once it answers.

    Args:
        port: 0 takes a free one.
        ready_fd: an open file descriptor; the real port is written to it as a line, then it is closed.

    Raises:
        ConfigError: the address can't be bound, or the bill's file can't be read.
    """
    app = create_app(settings)
    listener = _bind(host, port)
    real_port = listener.getsockname()[1]

    def announce() -> None:
        shown = f"[{host}]" if ":" in host else host
        print(f"simulated Databricks endpoint on http://{shown}:{real_port}", flush=True)
        if ready_fd is not None:
            with os.fdopen(ready_fd, "w") as ready:
                ready.write(f"{real_port}\n")

    # Answers that break off on purpose are errors to the server; they would fill its log.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    _Server(config, announce).run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 if the configuration can't work."""
    options = vars(_parser().parse_args(arguments))
    host, port, ready_fd = options.pop("host"), options.pop("port"), options.pop("ready_fd")
    config = options.pop("config")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = parse_settings({**_read_config(config), **given})
        run(host, port, settings, ready_fd=ready_fd)
    except (ConfigError, InvalidInput) as error:
        print(f"simulator: {error.message}", file=sys.stderr)
        return 2
    return 0


class _Server(uvicorn.Server):
    """Calls back once it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't listen on {host}:{port}: {error}") from None
    return listener


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        raw = orjson.loads(sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"the configuration {path} can't be read: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"the configuration {path} must be a JSON object")
    return raw


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="A simulated Databricks model-serving endpoint with its own bill and faults on request.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, default=8081, help="0 takes a free one (default 8081)")
    add("--config", metavar="FILE", help="settings as JSON; - reads them from standard input")
    add("--latency-ms", type=float, metavar="MS", help="wait of every model before it answers")
    add("--chunk-delay-ms", type=float, metavar="MS", help="wait between two chunks of a stream")
    add("--tokens-per-chunk", type=int, metavar="N", help="tokens in one chunk of a stream")
    add("--output-tokens", type=int, metavar="N", help="desired length of every answer")
    add("--bill-path", metavar="FILE", help="keep the bill in this file over a restart")
    add("--ready-fd", type=int, metavar="FD", help="write the real port to this descriptor once ready")
    return parser
