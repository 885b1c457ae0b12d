"""A copy of the store's events on this machine's disk, from which a store that lost its memory is rebuilt.

One folder: `events.log` has every event in the order of the store's stream, one sealed line each (`budget.sealed`);
`epoch` names the memory that they are of. One process keeps it, by a lock.

Failure policy: a torn last line, from a crash in mid-write, is cut off when the archive is opened; it is read from the
store again. A damaged line before it stops a rebuild with `ConfigError`: half of the books are not the books.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from budget.sealed import seal, unseal
from budget.summary import Summary
from core.errors import ConfigError

_TAIL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """An event: its id in the store's stream, its fields, and where its line ends in the file."""

    id: str
    fields: dict[str, str]
    end: int = 0


class Archive:
    """The archive in `folder`.

    reader: its name among the stream's readers (`budget.readers`).
    epoch: the memory that the events are of; None: of none yet.
    last: the newest event; None: there is none.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = folder / "events.log"
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise BlockingIOError(f"another process keeps {folder}") from None
        self._file = self._open()
        self.reader = f"archive:{_kept_text(folder / 'reader', lambda: uuid.uuid4().hex)}"
        name = folder / "epoch"
        self.epoch = name.read_text().strip() if name.exists() else None
        self.last = self._read_last()

    @property
    def sequence(self) -> int:
        """The store's count of events at the newest one."""
        return int(self.last.fields.get("seq", 0)) if self.last else 0

    def enter(self, epoch: str) -> None:
        """The events are of this memory from now on."""
        draft = self._folder / "epoch.new"
        draft.write_text(epoch + "\n")
        draft.replace(self._folder / "epoch")
        self.epoch = epoch

    def append(self, events: Iterable[tuple[str, dict[str, str]]]) -> None:
        """Add events, on disk when this returns.

        Raises:
            OSError: they are not on disk, and the archive is as it was.
        """
        start, last = os.lseek(self._file, 0, os.SEEK_END), None
        lines = []
        for event_id, fields in events:
            lines.append(_line(event_id, fields))
            last = Entry(event_id, fields)
        try:
            _write(self._file, b"".join(lines))
        except OSError:
            os.ftruncate(self._file, start)
            raise
        self.last = last or self.last

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """Every event from the line at this offset on, oldest first.

        Raises:
            ConfigError: a line is damaged.
        """
        with self._path.open("rb") as file:
            file.seek(start)
            end = start
            for line in file:
                end += len(line)
                yield _entry(line, end, self._path)

    def replace_tail(self, end: int, events: Iterable[tuple[str, dict[str, str]]], aside: str) -> None:
        """Keep what is before `end`, then these events; the file as it was stays beside it under the name `aside`."""
        draft = self._folder / "events.new"
        with self._path.open("rb") as old, draft.open("wb") as new:
            remaining = end
            while remaining:
                block = old.read(min(remaining, _TAIL_BYTES))
                remaining -= len(block)
                new.write(block)
            for event_id, fields in events:
                new.write(_line(event_id, fields))
            new.flush()
            os.fsync(new.fileno())
        shutil.copy2(self._path, self._folder / aside)
        os.close(self._file)
        draft.replace(self._path)
        self._file = self._open()
        self.last = self._read_last()

    def compact(self, before_ms: int, now_ms: int) -> int:
        """Put what the events from before an instant come to in their place; how many bytes that saved.

        before_ms: no hold that ended before it is remembered anywhere. now_ms: accounts not kept any more are left out.

        Raises:
            ConfigError: a line is damaged; the archive is as it was.
        """
        summary, end = Summary("", 0), 0
        for entry in self.entries():
            if int(entry.fields["at_ms"]) >= before_ms:
                break
            summary.add(entry.id, entry.fields)
            end = entry.end
        if not end:
            return 0
        summary.forget_accounts(now_ms)
        size, draft = os.fstat(self._file).st_size, self._folder / "events.new"
        with self._path.open("rb") as old, draft.open("wb") as new:
            new.writelines(_line(*event) for event in summary.events())
            old.seek(end)
            shutil.copyfileobj(old, new, _TAIL_BYTES)
            new.flush()
            os.fsync(new.fileno())
        os.close(self._file)
        draft.replace(self._path)
        self._file = self._open()
        self.last = self._read_last()
        return size - os.fstat(self._file).st_size

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return os.fstat(self._file).st_size

    def close(self) -> None:
        """Give the archive free."""
        os.close(self._file)
        os.close(self._lock)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _read_last(self) -> Entry | None:
        """The newest whole line; what follows it is cut off."""
        size = os.fstat(self._file).st_size
        start = max(0, size - _TAIL_BYTES)
        lines = os.pread(self._file, size - start, start).splitlines(keepends=True)
        end = size
        while lines:
            line = lines.pop()
            if (lines or not start) and line.endswith(b"\n") and unseal(line) is not None:
                os.ftruncate(self._file, end)
                return _entry(line, end, self._path)
            end -= len(line)
        if start:
            raise ConfigError(f"{self._path} is damaged at its end: move it away to begin a new archive")
        os.ftruncate(self._file, 0)
        return None


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def _kept_text(path: Path, made: Callable[[], str]) -> str:
    """What a file says; what was made now, if there is none."""
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.write_text(made() + "\n")
        draft.replace(path)
    return path.read_text().strip()


def _line(event_id: str, fields: dict[str, str]) -> bytes:
    return seal(json.dumps([event_id, fields], separators=(",", ":"), ensure_ascii=False).encode())


def _entry(line: bytes, end: int, path: Path) -> Entry:
    text = unseal(line)
    if text is None:
        raise ConfigError(f"{path} is damaged before byte {end}; the books can't be rebuilt from it")
    event_id, fields = json.loads(text)
    return Entry(event_id, fields, end)
