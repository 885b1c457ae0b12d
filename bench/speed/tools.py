"""The two C programs: compiled when they changed, started on their cores, their answers read."""

import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.speed.machine import pin

FOLDER = Path(__file__).resolve().parents[2] / ".bench"
_SOURCES = Path(__file__).parent
_LOAD_LIMIT_S = 600.0
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")


def compiler() -> str | None:
    """A C compiler, or None."""
    return shutil.which("gcc") or shutil.which("cc")


def build(name: str) -> Path:
    """The program made from `name`.c, compiled again only if the source is newer.

    Raises:
        RuntimeError: there is no C compiler.
        subprocess.CalledProcessError: it does not compile.
    """
    source, program = _SOURCES / f"{name}.c", FOLDER / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    if (gcc := compiler()) is None:
        raise RuntimeError("no C compiler (apt-get install gcc)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:  # another run may be at it too
        subprocess.run([gcc, *_FLAGS, str(source), "-o", f"{folder}/{name}"], check=True)
        Path(folder, name).replace(program)
    return program


@dataclass(frozen=True, slots=True)
class Upstream:
    """The stand-in for a model's server."""

    address: str
    pid: int

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://{self.address}"

    def set(self, *, delay_us: int = 0, gap_us: int = 0, chunks: int = 64) -> None:
        """How the next answers are given."""
        path = f"/_set?delay_us={delay_us}&gap_us={gap_us}&chunks={chunks}"
        urllib.request.urlopen(f"{self.url}{path}", data=b"{}", timeout=10).close()

    def answers(self) -> int:
        """How many calls it answered so far."""
        with urllib.request.urlopen(f"{self.url}/_count", timeout=10) as answer:
            return int(json.load(answer)["answers"])


@contextmanager
def running_upstream(cores: frozenset[int] | None = None) -> Iterator[Upstream]:
    """The stand-in on a free port."""
    process = subprocess.Popen([build("upstream"), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().split()[1]
        if cores:
            pin([process.pid], cores)
        yield Upstream(f"127.0.0.1:{port}", process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def http_request(address: str, path: str, headers: Mapping[str, str], body: object) -> bytes:
    """A whole POST as bytes."""
    raw = json.dumps(body, separators=(",", ":")).encode()
    head = {"Host": address, "Content-Type": "application/json", "Content-Length": str(len(raw))} | dict(headers)
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + raw


def run_load(
    address: str,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float | None = None,
    count: int | None = None,
    rate: float | None = None,
    warm_up_s: float = 0,
) -> dict[str, Any]:
    """Send these requests in turn; the report of `load.c`. It runs on the cores of the caller.

    Raises:
        ConnectionError: nobody listens there, or what answers does not speak HTTP.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(b"%d\n%s" % (len(request), request) for request in requests))
        file.flush()
        command = [str(build("load")), "--to", address, "--requests", file.name, "--connections", str(connections)]
        command += ["--warm-up", str(warm_up_s)]
        command += ["--seconds", str(seconds)] if count is None else ["--count", str(count)]
        command += [] if rate is None else ["--rate", str(rate)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LOAD_LIMIT_S)
    if done.returncode:
        raise ConnectionError(f"load ended with {done.returncode}: {done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
