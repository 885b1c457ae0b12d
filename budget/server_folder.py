"""The folder of an embedded server: who owns it, which server has it, where its socket and its log are.

Files: `owner.lock` (locked by the program), `server.lock` (locked by the server), `server.json` (which server
it is), `valkey.log`, `valkey.sock`, and the server's append-only files.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from core.errors import ConfigError

LOG_NAME = "valkey.log"

#: Linux allows 107 bytes for a socket's path, macOS 103.
_SOCKET_PATH_MAX_BYTES = 100
_SOCKET_NAME = "valkey.sock"
_LOG_TAIL_LINES = 15


def private_folder(folder: Path) -> Path:
    """Create it, and make sure that it is a folder of this user with mode 0700."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise ConfigError(f"{folder} belongs to another user; give the embedded store a folder of its own")
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"the embedded store can't use {folder}: {error.strerror}") from error
    return folder


def lock(path: Path) -> int | None:
    """A descriptor that holds the exclusive lock on `path`; None if somebody else does.

    The files are never deleted: a lock on a deleted file protects nothing.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def is_locked(path: Path) -> bool:
    """True if somebody holds the exclusive lock on `path`."""
    fd = lock(path)
    if fd is not None:
        os.close(fd)
    return fd is None


def own(folder: Path) -> int:
    """The descriptor that makes this program the folder's owner for as long as it is open.

    Raises:
        ConfigError: another program owns it; names its pid.
    """
    path = folder / "owner.lock"
    fd = lock(path)
    if fd is None:
        pid = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        raise ConfigError(f"another spendgate (pid {pid}) uses this folder: {folder}")
    os.truncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def socket_path(folder: Path) -> Path:
    """In the folder, or in a private folder under the temp folder if that path is too long for a socket."""
    socket = folder / _SOCKET_NAME
    if len(os.fsencode(socket)) <= _SOCKET_PATH_MAX_BYTES:
        return socket
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    name = f"spendgate-{os.geteuid()}-{digest}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
        socket = parent / name / _SOCKET_NAME
        if len(os.fsencode(socket)) <= _SOCKET_PATH_MAX_BYTES:
            if socket.parent.is_symlink():
                raise ConfigError(f"{socket.parent} is a symbolic link; remove it")
            private_folder(socket.parent)
            return socket
    raise ConfigError(f"{folder} is too long a path for a socket, and so is the temp folder; shorten one of them")


def url_of(socket: Path) -> str:
    """What `budget.connect.connect` reads as this socket; the path is escaped."""
    return f"unix://{quote(str(socket))}"


def write_facts(folder: Path, socket: Path, pid: int) -> None:
    """Which server has the folder, for a program that finds it orphaned; replaced as a whole."""
    draft = folder / "server.json.new"
    draft.write_text(json.dumps({"pid": pid, "socket": str(socket)}), encoding="utf-8")
    draft.replace(folder / "server.json")


def read_facts(folder: Path) -> tuple[int | None, Path]:
    """The orphan's (pid, socket); pid None if its program died before it wrote them."""
    try:
        facts = json.loads((folder / "server.json").read_text(encoding="utf-8"))
        return int(facts["pid"]), Path(facts["socket"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, socket_path(folder)


def log_tail(folder: Path, start: int) -> str:
    """The last lines that the server logged after byte `start`."""
    with (folder / LOG_NAME).open("rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])


def forget(folder: Path, socket: Path) -> None:
    """Take away what described a server that has ended."""
    (folder / "server.json").unlink(missing_ok=True)
    if socket.parent != folder:
        socket.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            socket.parent.rmdir()
