"""From `spendgate serve` to the first answered call, and what takes how long of it."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.growth.deployment import Size, fill, settings
from bench.speed.machine import children, cpu_us
from bench.speed.tools import Upstream
from tests.support.gateway import ADMIN_KEY, running_gateway
from tests.support.stores import free_port

_PATIENCE_S = 120.0
_LOOK_EVERY_S = 0.002
_ROOT = Path(__file__).resolve().parents[2]
#: The first is what Python itself takes.
_IMPORTS = ("sys", "spendgate.cli", "spendgate.worker")


@dataclass(frozen=True, slots=True)
class Start:
    """One start, in seconds from its first moment: store and worker began, a call was answered.

    cpu_s: processor time of supervisor and worker until then; it changes less than the rest on a busy machine.
    """

    store_s: float
    worker_s: float
    answered_s: float
    cpu_s: tuple[float, float]


def starts(upstream: Upstream, rounds: int, quick: bool) -> Iterator[str]:
    """An empty deployment's first start, its second, and a large one's; then what loading the modules takes."""
    budgets = 10_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="sg-") as name:
        folder = Path(name)
        first = [_start(folder / str(number), settings(upstream, folder)) for number in range(rounds)]
        yield _row("first start, empty folder", first)
        yield _row("second start", [_start(folder / "0", settings(upstream, folder)) for _ in range(rounds)])
        with running_gateway(folder / "large", **settings(upstream, folder)) as gateway:
            fill(gateway, Size(agents=budgets))
        large = [_start(folder / "large", settings(upstream, folder)) for _ in range(min(rounds, 2))]
        yield _row(f"with {budgets:,} budgets", large)
    for module in _IMPORTS:
        yield f"loading {module}: {_import_s(module, rounds) * 1000:.0f} ms"


def _row(name: str, found: list[Start]) -> str:
    parts = {
        "supervisor loads": [one.store_s for one in found],
        "store, books, budgets": [one.worker_s - one.store_s for one in found],
        "worker loads, reads the snapshot, answers": [one.answered_s - one.worker_s for one in found],
    }
    words = ", ".join(f"{part} {statistics.median(values) * 1000:.0f}" for part, values in parts.items())
    supervisor, worker = (statistics.median(one.cpu_s[n] for one in found) * 1000 for n in (0, 1))
    answered = statistics.median(one.answered_s for one in found) * 1000
    cpu = f"processor time: supervisor {supervisor:.0f}, worker {worker:.0f}"
    return f"{name}: {answered:.0f} ms: {words}; {cpu}"


def _start(folder: Path, environment: dict[str, str]) -> Start:
    """Start on this folder, call until an answer comes, stop."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "start.log"
    own = {"PORT": str(port), "SPENDGATE_DATA_DIR": str(folder / "data"), "SPENDGATE_ADMIN_KEY": ADMIN_KEY}
    full = (
        {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(_ROOT)} | own | environment
    )
    began_s = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "spendgate", "serve"], env=full, stdout=out, stderr=out, cwd=folder
        )
    try:
        while not _answers(port, folder / "data" / "quickstart.key"):
            assert process.poll() is None and time.monotonic() - began_s < _PATIENCE_S, log.read_text()
            time.sleep(_LOOK_EVERY_S)
        answered_s = time.monotonic() - began_s
        pids = _children(process.pid)
        cpu_s = cpu_us([process.pid]) / 1e6, cpu_us([pids["worker"]]) / 1e6
        store_s, worker_s = (_began_s(pids[name]) - _began_s(process.pid) for name in ("store", "worker"))
        return Start(store_s, worker_s, answered_s, cpu_s)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE_S)


def _children(pid: int) -> dict[str, int]:
    """The store and the worker of this supervisor."""
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(pid)}
    return {"worker" if b"spendgate.worker" in command else "store": child for child, command in commands.items()}


def _began_s(pid: int) -> float:
    """When it began, since the machine's start; to a hundredth of a second."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def _answers(port: int, key_file: Path) -> bool:
    try:
        key = key_file.read_text().strip()
        body = json.dumps({"prompt": "Hello", "scopeType": "agent", "scopeKey": "demo"}).encode()
        head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/agent/chat", body, head)
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _import_s(module: str, rounds: int) -> float:
    """The median time of a Python that loads this module and ends."""
    took_s = []
    for _ in range(rounds + 1):
        began_s = time.monotonic()
        subprocess.run([sys.executable, "-c", f"import {module}"], cwd=_ROOT, check=True)
        took_s.append(time.monotonic() - began_s)
    return statistics.median(took_s[1:])
