"""The simulated Databricks endpoint as a process of its own, for tests."""

import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 20.0
_STOP_S = 10.0
_ANSWER_S = 10.0
_POLL_S = 0.01


class Simulated:
    """A running simulator. base_url: the workspace's host; ``/serving-endpoints`` is below it."""

    def __init__(self, base_url: str, process: subprocess.Popen[bytes]) -> None:
        self.base_url = base_url
        self.process = process

    def bill(self, recent: int = 0) -> dict[str, Any]:
        """What it billed: ``{"models": {name: totals}, "calls": int}``, and the last `recent` calls."""
        return self.control("GET", f"/simulator/bill?recent={recent}")

    def in_flight(self) -> int:
        """Calls that it is handling now; a hung one counts until its client has closed the connection."""
        return int(self.control("GET", "/simulator/health")["in_flight"])

    def oauth_tokens_issued(self) -> int:
        """OAuth tokens given out since the start."""
        return int(self.control("GET", "/simulator/health")["oauth_tokens_issued"])

    def wait_idle(self, timeout_s: float = 5.0) -> None:
        """Return once no call is in flight, so that the bill is final.

        Raises:
            AssertionError: some still are after `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while (count := self.in_flight()) > 0:
            assert time.monotonic() < deadline_s, f"{count} calls still in flight"
            time.sleep(_POLL_S)

    def set_fault(self, model: str = "*", **fault: Any) -> None:
        """Arm one fault, in place of those armed before: ``set_fault(name, fault="rate_limit", times=1)``."""
        self.control("PUT", f"/simulator/models/{model}/faults", fault)

    def set_faults(self, model: str, faults: list[dict[str, Any]]) -> None:
        """Arm several faults, in place of those armed before; for each call the first one due is taken."""
        self.control("PUT", f"/simulator/models/{model}/faults", faults)

    def clear_faults(self) -> None:
        """Disarm all faults of all models."""
        self.control("DELETE", "/simulator/faults")

    def change_model(self, model: str, **changes: Any) -> None:
        """Change settings of a model: ``change_model(name, output_tokens=500, retired=True)``."""
        self.control("PUT", f"/simulator/models/{model}", changes)

    def reset(self) -> None:
        """Bill and rate limit windows to zero; faults and settings stay."""
        self.control("POST", "/simulator/reset", {})

    def control(self, method: str, path: str, value: object = None) -> dict[str, Any]:
        """One call of the control interface.

        Raises:
            AssertionError: it was refused; holds the answer.
        """
        data = None if value is None else orjson.dumps(value)
        request = urllib.request.Request(self.base_url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
                reply: dict[str, Any] = orjson.loads(answer.read())
                return reply
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from None


@contextmanager
def running_simulator(*, port: int = 0, **settings: Any) -> Iterator[Simulated]:
    """Start a simulator with these settings (fields of `SimulatorSettings` or `ModelSettings`) and stop it.

    Raises:
        AssertionError: it did not become ready.
    """
    reader, writer = os.pipe()
    command = [
        sys.executable,
        "-m",
        "simulator",
        "--config",
        "-",
        "--port",
        str(port),
        "--ready-fd",
        str(writer),
    ]
    process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(writer,))
    os.close(writer)
    try:
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(settings))
        process.stdin.close()
        yield Simulated(f"http://127.0.0.1:{_read_port(reader)}", process)
    finally:
        os.close(reader)
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL if that is not obeyed in time."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_port(reader: int) -> int:
    ready, _, _ = select.select([reader], [], [], _START_S)
    line = os.read(reader, 32) if ready else b""
    assert line.strip().isdigit(), "the simulator did not start"
    return int(line)
