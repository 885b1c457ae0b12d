"""A test whose program is missing is skipped out loud on a user's machine, and fails in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDY = "tests/budget/test_connect.py::test_eviction_without_a_limit_of_memory_evicts_nothing"


def run_without_programs(empty: Path, ci: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(empty), "CI": ci, "HOME": os.environ.get("HOME", "/")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", NEEDY]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("ci", "returncode", "said"),
    [
        ("", 0, ["NOT TESTED ON THIS MACHINE", "no redis-server on PATH", "1 skipped"]),
        ("true", 1, ["not tested: no redis-server on PATH", "1 failed"]),
    ],
)
def test_a_missing_program(tmp_path: Path, ci: str, returncode: int, said: list[str]) -> None:
    done = run_without_programs(tmp_path, ci)
    assert done.returncode == returncode, done.stdout
    assert [text for text in said if text not in done.stdout] == []
