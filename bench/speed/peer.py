"""What the peers have in common: an environment of their own, and a server started from it with little else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from bench.speed.machine import descendants
from bench.speed.tools import FOLDER

_PATIENCE_S = 120.0
_LOOK_EVERY_S = 0.1
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")

#: A program and its arguments.
Command = list[str | Path]

#: One thread is all that one core can use; each takes it from where its language's runtime looks.
_ONE_THREAD = {"GOMAXPROCS": "1", "TOKIO_WORKER_THREADS": "1", "UV_THREADPOOL_SIZE": "1"}


class PythonEnvironment:
    """A virtual environment under `.bench/`, with one pinned package; `beside`: what it runs faster with."""

    def __init__(self, name: str, requirement: str, beside: Sequence[str] = ()) -> None:
        self.folder = FOLDER / f"{name}-env"
        self.bin = self.folder / "bin"
        self._requirements = [requirement, *beside]

    def install(self) -> None:
        """Make it."""
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        pip = [str(self.bin / "python"), "-m", "pip", "-q", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *self._requirements], check=True)

    def version(self) -> str:
        """Of the package; empty if it is not there."""
        return self._version_of(self._requirements[0])

    def missing(self) -> str | None:
        """None if the packages are there."""
        return None if all(map(self._version_of, self._requirements)) else "not installed: make bench-peers"

    def _version_of(self, requirement: str) -> str:
        name = requirement.split("==")[0].split("[")[0]
        paths = [str(path) for path in self.folder.glob("lib/python*/site-packages")]
        return next((found.version for found in distributions(name=name, path=paths)), "")


class NodeEnvironment:
    """A folder with `node_modules` under `.bench/`, with one pinned package; `overrides` pins what it depends on."""

    def __init__(self, name: str, package: str, version: str, overrides: Mapping[str, str] | None = None) -> None:
        self._manifest = {"private": True, "overrides": dict(overrides or {})}
        self.folder = FOLDER / f"{name}-env"
        self.package = self.folder / "node_modules" / package
        self._requirement = f"{package}@{version}"

    def install(self) -> None:
        """Make it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "package.json").write_text(json.dumps(self._manifest))
        command = ["npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", "--loglevel=error"]
        subprocess.run([*command, self._requirement], cwd=self.folder, check=True)

    def version(self) -> str:
        """Of the package; empty if it is not there."""
        file = self.package / "package.json"
        return str(json.loads(file.read_text())["version"]) if file.exists() else ""

    def missing(self) -> str | None:
        """None if the package and Node.js are there."""
        if shutil.which("node") is None:
            return "no node on PATH"
        return None if self.version() else "not installed: make bench-peers"


@contextmanager
def started(
    command: Command, folder: Path, port: int, environment: dict[str, str] | None = None
) -> Iterator[list[int]]:
    """Run a server in this folder until the end of the block; its processes, once it accepts connections.

    Raises:
        RuntimeError: it ended, or was not ready in time; holds its log.
    """
    inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env=inherited | _ONE_THREAD | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        _until_open(process, port, log)
        yield [process.pid, *descendants(process.pid)]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not _is_open(port):
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"{process.args!r} does not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(_LOOK_EVERY_S)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
