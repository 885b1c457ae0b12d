"""What a test needs from the machine. A need not met skips the test, loudly; with CI=true it fails it."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

#: How the reason of such a skip begins; `tests/conftest.py` lists them at the end of the run.
NOT_TESTED = "not tested: "

#: Debian's package of each program that `.ci/setup-test-tools` installs.
PACKAGES = {"redis-server": "redis-server", "chromium": "chromium"}


def require_binary(name: str) -> Path:
    """The program's path, or the end of this test: skipped, or failed where CI=true."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    package = PACKAGES.get(name, name)
    not_tested(f"no {name} on PATH (make test-tools, or: apt-get install {package})")


def not_tested(reason: str) -> NoReturn:
    """End this test because the machine lacks something: skipped, or failed where CI=true."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{NOT_TESTED}{reason}", pytrace=False)
    pytest.skip(f"{NOT_TESTED}{reason}")
