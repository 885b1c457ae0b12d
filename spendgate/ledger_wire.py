"""What a worker or a command asks the process that owns the ledger: a line of JSON each way, on a Unix socket.

``{"ask": "spend", "given": {"ask": {…}}}`` is answered by ``{"value": …}`` or ``{"error": …, "code": …}``. The verbs
and their types are those of `ledger.ports.LedgerReader`.
"""

import contextlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from ledger.ports import LedgerReader

#: A line's bytes at most.
LIMIT_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Verb:
    """A question: the types of what is given with it, and of its answer."""

    given: dict[str, TypeAdapter[Any]]
    value: TypeAdapter[Any]


@cache
def verbs() -> dict[str, Verb]:
    """Every question of `LedgerReader`, by name."""
    found = {}
    for name, method in inspect.getmembers(LedgerReader, inspect.iscoroutinefunction):
        hints = get_type_hints(method)
        value = TypeAdapter(hints.pop("return"))
        found[name] = Verb({given: TypeAdapter(hint) for given, hint in hints.items()}, value)
    return found


@contextlib.contextmanager
def socket_path(data_dir: Path, namespace: str) -> Iterator[str]:
    """A path of the socket that is short enough for the kernel (108 bytes), however long the folder's is."""
    folder = os.open(data_dir / "ledger", os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = Path(f"/proc/self/fd/{folder}")
        base = short if short.exists() else data_dir / "ledger"
        yield str(base / f"{namespace}.sock")
    finally:
        os.close(folder)
