"""Settlements that wait for the store, on disk: what was paid is not forgotten when this process dies meanwhile.

One file per worker, append-only, each line checksummed and synced to the disk before it counts. A worker that starts
takes over the files that nobody holds a lock on. Applying an entry twice has one effect, so an entry is only ever
forgotten after the store has taken it.

Failure policy: a file that can't be written is said loudly, and the settlement waits in memory alone; the lease of its
hold is then what remains. A line that is damaged (a torn write) is skipped and said.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
from pathlib import Path

from budget.model import Basis, Resolution, ResolveMode
from budget.sealed import seal, unseal

log = logging.getLogger("spendgate.journal")

MAX_BYTES = 64 * 1024 * 1024


class Journal:
    """The waiting settlements of one worker."""

    def __init__(self, folder: Path, name: str, *, max_bytes: int = MAX_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = folder / f"{name}.journal"
        self._max_bytes = max_bytes
        draft = folder / f"{name}.new"  # nobody takes over a file before it is locked
        self._file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(self._path)
        self._bytes = 0

    def take_over(self) -> list[Resolution]:
        """The settlements that dead workers left, now in this journal too; their files are removed."""
        taken: list[Resolution] = []
        for path in sorted(self._folder.glob("*.journal")):
            if path != self._path:
                taken += self._take_file(path)
        return taken

    def _take_file(self, path: Path) -> list[Resolution]:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []  # another worker was faster
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _read(path)
            if all(self.add(resolution) for resolution in found):
                path.unlink(missing_ok=True)
            return found
        except BlockingIOError:
            return []  # its worker lives
        finally:
            os.close(file)

    def add(self, resolution: Resolution) -> bool:
        """Write and sync one entry; False: it is not on disk (full, or failing)."""
        line = _encode(resolution)
        if self._bytes + len(line) > self._max_bytes:
            log.error("the journal is full; hold %s waits in memory only", resolution.hold_id)
            return False
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, "the disk took only a part of it")
            os.fsync(self._file)
        except OSError as error:
            log.error("the journal can't be written (%s); hold %s waits in memory only", error, resolution.hold_id)
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._bytes)  # the next entry must not continue a torn line
            return False
        self._bytes += len(line)
        return True

    def clear(self) -> None:
        """Everything in it has been taken by the store."""
        if self._bytes:
            os.ftruncate(self._file, 0)
            self._bytes = 0

    def close(self) -> None:
        """Give the file free; an empty one is removed."""
        if not self._bytes:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


def _encode(r: Resolution) -> bytes:
    entry = {
        "hold": r.hold_id,
        "mode": r.mode.value,
        "accounts": list(r.account_ids),
        "cost_nano": str(r.cost_nano),
        "basis": r.basis.value,
        "detail": r.detail.decode(),
        "only_owner": r.only_owner,
    }
    return seal(json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode())


def _read(path: Path) -> list[Resolution]:
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        text = unseal(line)
        if text is None:
            log.error("line %d of %s is damaged and is skipped; its hold's lease remains", number, path.name)
            continue
        entry = json.loads(text)
        found.append(
            Resolution(
                entry["hold"],
                ResolveMode(entry["mode"]),
                tuple(entry["accounts"]),
                int(entry["cost_nano"]),
                Basis(entry["basis"]),
                entry["detail"].encode(),
                only_owner=entry.get("only_owner", ""),
            )
        )
    return found
