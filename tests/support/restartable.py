"""A store that is killed, frozen and started again on its data, on one port."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budget.server_binary import find_server_binary
from tests.support.stores import free_port

_START_S = 20.0


class RestartableStore:
    """The Valkey that the embedded store uses, durable, on a TCP port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start on the data that is there, and wait until it is loaded."""
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": "", "daemonize": "no"}
        settings |= {"appendonly": "yes", "appendfsync": "everysec", "logfile": str(self.folder / "server.log")}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [find_server_binary().path, *words], stdin=subprocess.DEVNULL, start_new_session=True
        )
        deadline_s = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline_s, "the store does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(5)

    def freeze(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A blocking client past all proxies."""
        return redis.Redis(
            port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), decode_responses=True, protocol=2
        )

    def command(self, *words: str) -> object:
        """One command's answer."""
        with self.client() as client:
            answer: object = client.execute_command(*words)
            return answer

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextlib.contextmanager
def restartable_store() -> Iterator[RestartableStore]:
    """Started; killed at the end, whatever state it is in."""
    with tempfile.TemporaryDirectory(prefix="sg-", ignore_cleanup_errors=True) as name:
        store = RestartableStore(Path(name))
        try:
            store.start()
            yield store
        finally:
            with contextlib.suppress(ProcessLookupError):
                store.kill()
