"""A private Valkey that the program starts itself, on one folder, with a promise never to lose or share it.

How it goes:
1. `owner.lock` is locked by this program for its life: a second program on the folder is refused.
2. `server.lock` is locked and handed to the server, which never closes it: the lock lives exactly as long as
   the server, whatever becomes of us.
3. If `server.lock` is held although we own the folder, an earlier program was killed and left its server
   behind. It is adopted if it proves that it is that server, and refused otherwise. It is never joined by a
   second one.
4. Otherwise a server is started: append-only file, no eviction, a Unix socket and no port.
5. `stop` ends it, started or adopted, with SHUTDOWN, which syncs the append-only file.

Failure policy: whatever is in doubt stops the start with a ConfigError that says what to do. The truncated
last write of a killed server is dropped at its next start (`aof-load-truncated`). With ``everysec`` up to a
second of writes can be lost, but only if the machine itself dies; with ``always`` none.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budget.server_binary import find_server_binary
from budget.server_folder import (
    LOG_NAME,
    forget,
    is_locked,
    lock,
    log_tail,
    own,
    private_folder,
    read_facts,
    socket_path,
    url_of,
    write_facts,
)
from core.errors import ConfigError

START_TIMEOUT_S = 30.0

#: For each of SHUTDOWN, SIGTERM and SIGKILL.
STOP_TIMEOUT_S = 10.0

T = TypeVar("T")

_ANSWER_TIMEOUT_S = 5.0
_POLL_S = 0.02


class EmbeddedValkey:
    """A running server that this program owns.

    url: for `budget.connect.connect`, such as ``unix:///var/lib/spendgate/valkey/valkey.sock``.
    pid: the server's process.
    adopted: True if an earlier program started it and was killed.
    """

    def __init__(
        self, folder: Path, owner_fd: int, socket: Path, pid: int, child: subprocess.Popen[bytes] | None
    ) -> None:
        self.folder = folder
        self.pid = pid
        self.adopted = child is None
        self.url = url_of(socket)
        self._socket = socket
        self._child = child
        self._owner_fd: int | None = owner_fd
        # A forked child has this object too, but the server is not its to stop.
        self._owner_pid = os.getpid()

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        binary: Path | None = None,
        fsync: str = "everysec",
        timeout_s: float = START_TIMEOUT_S,
    ) -> "EmbeddedValkey":
        """Start a server on `folder`, or adopt the one left there; blocks until it answers and has loaded.

        Args:
            folder: where the data is; created, and made private to the user (0700).
            binary: the server program; None: see `budget.server_binary`.
            fsync: ``everysec`` or ``always``: how often the append-only file reaches the disk.
            timeout_s: how long the server may take until it is ready.

        Raises:
            ConfigError: the folder is in use or not ours, no program is found, or the server fails to start.
        """
        if fsync not in ("everysec", "always"):
            raise ConfigError(f"fsync of the embedded store must be everysec or always, not {fsync!r}")
        folder = private_folder(folder.resolve())
        owner_fd = own(folder)
        try:
            claim = _claim(folder, timeout_s)
            if claim.server_fd is None:
                return _adopt(folder, owner_fd, claim, fsync)
            try:
                return _launch(folder, owner_fd, claim.server_fd, binary, fsync, timeout_s)
            finally:
                # From here on only the server has the lock.
                os.close(claim.server_fd)
        except BaseException:
            os.close(owner_fd)
            raise

    def is_running(self) -> bool:
        """True while the server's process lives; it may still not answer."""
        if self._owner_fd is None:
            return False
        if self._child is not None:
            return self._child.poll() is None
        return is_locked(self.folder / "server.lock")

    def stop(self) -> None:
        """End the server and give the folder free; does nothing the second time, and in a forked child.

        SHUTDOWN first, then SIGTERM, then SIGKILL, each with a limit of time.
        """
        if self._owner_fd is None or self._owner_pid != os.getpid():
            return
        try:
            _shut_down(self._socket)
            for number in (signal.SIGTERM, signal.SIGKILL, None):
                if _wait(lambda: not self.is_running(), STOP_TIMEOUT_S) or number is None:
                    break
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            forget(self.folder, self._socket)
        finally:
            os.close(self._owner_fd)
            self._owner_fd = None

    def __enter__(self) -> Self:
        """The running server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, whatever happened."""
        self.stop()


def running_url(folder: Path) -> str:
    """The URL of the server that runs on `folder`, for a second process of the same user, such as a command.

    Raises:
        ConfigError: none runs there, it does not answer, or the folder is another user's.
    """
    folder = folder.resolve()
    try:
        pid, socket = read_facts(folder)
    except OSError as error:
        raise ConfigError(f"{folder} can't be read: {error.strerror}") from error
    if pid is None or _identify(socket, folder) != pid:
        raise ConfigError(f"no embedded store runs on {folder}: start spendgate there, or set REDIS_URL")
    return url_of(socket)


def _launch(
    folder: Path, owner_fd: int, server_fd: int, binary: Path | None, fsync: str, timeout_s: float
) -> EmbeddedValkey:
    program = find_server_binary(binary).path
    socket = socket_path(folder)
    # Facts about an earlier server must not outlive it: a later start compares them with the one it finds.
    (folder / "server.json").unlink(missing_ok=True)
    log_path = folder / LOG_NAME
    log_start = log_path.stat().st_size if log_path.exists() else 0
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            [program, *_settings(folder, socket, fsync)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            # Nothing of our environment: it holds keys, and Valkey needs none of it.
            env={"LC_ALL": "C", "PATH": os.defpath},
            pass_fds=(server_fd,),
            # Its own session: Ctrl-C in the terminal reaches us, and we end it in order.
            start_new_session=True,
        )
    server = EmbeddedValkey(folder, owner_fd, socket, child.pid, child)
    try:
        write_facts(folder, socket, child.pid)
        _await_ready(server, timeout_s, log_start)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return server


def _settings(folder: Path, socket: Path, fsync: str) -> list[str]:
    settings = {
        "dir": str(folder),
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "daemonize": "no",
        "logfile": str(folder / LOG_NAME),
        "appendonly": "yes",
        "appendfsync": fsync,
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


@dataclass(frozen=True, slots=True)
class _Claim:
    """What the folder's owner found there.

    server_fd: the lock for a server to be started; None if one lives.
    orphan_pid, orphan_socket: the server that lives, proven to work on the folder.
    """

    server_fd: int | None
    orphan_pid: int
    orphan_socket: Path


def _claim(folder: Path, timeout_s: float) -> _Claim:
    """Get the server's lock, or prove which server has it.

    Waits, because an orphan may still be loading, or be about to end.

    Raises:
        ConfigError: a process holds the lock and does not prove that it is the server recorded here.
    """
    recorded_pid, socket = read_facts(folder)

    def look() -> _Claim | None:
        fd = lock(folder / "server.lock")
        if fd is not None:
            return _Claim(fd, 0, socket)
        pid = _identify(socket, folder)
        return _Claim(None, pid, socket) if pid is not None and recorded_pid in (None, pid) else None

    claim = _wait_value(look, timeout_s)
    if claim is None:
        pid_text = recorded_pid or "unknown"
        raise ConfigError(
            f"a server that an earlier spendgate left behind (pid {pid_text}) still holds {folder} and can't "
            "be taken over: stop that process, then start again"
        )
    return claim


def _adopt(folder: Path, owner_fd: int, claim: _Claim, fsync: str) -> EmbeddedValkey:
    """Take over a proven orphan, with the settings that this start asks for."""
    wanted = {"appendonly": "yes", "appendfsync": fsync, "maxmemory-policy": "noeviction"}
    try:
        with _client(claim.orphan_socket) as client:
            for name, value in wanted.items():
                client.config_set(name, value)
    except redis.RedisError as error:
        raise ConfigError(
            f"the server left in {folder} (pid {claim.orphan_pid}) refuses its settings: {error}"
        ) from error
    write_facts(folder, claim.orphan_socket, claim.orphan_pid)
    return EmbeddedValkey(folder, owner_fd, claim.orphan_socket, claim.orphan_pid, None)


def _identify(socket: Path, folder: Path) -> int | None:
    """The pid of the server on `socket` if it is ready and works on `folder`; None otherwise."""
    try:
        with _client(socket) as client:
            if not _is_ready(client) or not _works_on(client, folder):
                return None
            return int(client.info("server")["process_id"])
    except (redis.RedisError, OSError):
        return None


def _works_on(client: redis.Redis, folder: Path) -> bool:
    return Path(str(client.config_get("dir")["dir"])).resolve() == folder


def _is_ready(client: redis.Redis) -> bool:
    return bool(client.ping()) and int(client.info("persistence")["loading"]) == 0


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_connect_timeout=1.0,
        socket_timeout=_ANSWER_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        protocol=2,
    )


def _await_ready(server: EmbeddedValkey, timeout_s: float, log_start: int) -> None:
    """Wait until the started server has loaded its data and answers.

    Raises:
        ConfigError: it ended or took too long; with the end of its log.
    """

    def settled() -> bool:
        return not server.is_running() or _identify(server._socket, server.folder) == server.pid

    in_time = _wait(settled, timeout_s)
    if in_time and server.is_running():
        return
    fault = f"was not ready after {timeout_s:g} s" if server.is_running() else "ended at once"
    tail = log_tail(server.folder, log_start)
    raise ConfigError(f"the embedded store in {server.folder} {fault}; its log ends with:\n{tail}")


def _shut_down(socket: Path) -> None:
    """Ask for an orderly end; the append-only file is synced first. Signals follow if it is not heard."""
    with contextlib.suppress(redis.RedisError, OSError), _client(socket) as client:
        client.shutdown()


def _wait(done: Callable[[], bool], timeout_s: float) -> bool:
    return _wait_value(lambda: True if done() else None, timeout_s) is not None


def _wait_value(look: Callable[[], T | None], timeout_s: float) -> T | None:
    """The first answer of `look` that is not None, or None after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = look()
        if value is not None or time.monotonic() >= deadline_s:
            return value
        time.sleep(_POLL_S)
