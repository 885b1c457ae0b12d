"""The journal: what waits is on disk, once, and another worker finds it."""

import os
from pathlib import Path

import pytest

from budget.journal import Journal
from budget.model import Basis, Resolution, ResolveMode


def resolution(number: int, cost_nano: int = 5) -> Resolution:
    detail = b'{"x":"\xc3\xa9"}'
    return Resolution(f"hld_{number}", ResolveMode.SETTLE, ("b:p:ä k",), cost_nano, Basis.ESTIMATED, detail)


def crash(journal: Journal) -> None:
    """The process is gone: its lock too, its file stays."""
    os.close(journal._file)


def test_what_a_dead_worker_left_is_taken_over_once(tmp_path: Path) -> None:
    dead = Journal(tmp_path, "one")
    assert dead.add(resolution(1)) and dead.add(resolution(2, 2**53 - 1))
    crash(dead)
    heir = Journal(tmp_path, "two")
    assert heir.take_over() == [resolution(1), resolution(2, 2**53 - 1)]
    assert Journal(tmp_path, "three").take_over() == [], "the heir lives and has them"
    crash(heir)
    assert Journal(tmp_path, "four").take_over() == [resolution(1), resolution(2, 2**53 - 1)]


def test_a_living_workers_file_is_left_alone(tmp_path: Path) -> None:
    living = Journal(tmp_path, "one")
    living.add(resolution(1))
    assert Journal(tmp_path, "two").take_over() == []


def test_a_cleared_journal_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one")
    journal.add(resolution(1))
    journal.clear()
    journal.add(resolution(2))
    crash(journal)
    assert Journal(tmp_path, "two").take_over() == [resolution(2)]


def test_a_torn_line_is_skipped_and_the_rest_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one")
    journal.add(resolution(1))
    journal.add(resolution(2))
    crash(journal)
    path = tmp_path / "one.journal"
    raw = path.read_bytes()
    path.write_bytes(raw[:20] + b"#" + raw[21:-7])
    assert Journal(tmp_path, "two").take_over() == []
    path.unlink(missing_ok=True)
    path.write_bytes(raw[:-7])
    assert Journal(tmp_path, "three").take_over() == [resolution(1)]


def test_it_is_bounded(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one", max_bytes=200)
    assert journal.add(resolution(1))
    assert not journal.add(resolution(2))


def test_an_empty_journal_leaves_no_file(tmp_path: Path) -> None:
    Journal(tmp_path, "one").close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_full_disk_took_half_of_is_no_entry_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, "one")
    assert journal.add(resolution(1))
    write = os.write
    with monkeypatch.context() as nearly_full:
        nearly_full.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        assert not journal.add(resolution(2)), "it is not on disk"
    assert "hold hld_2 waits in memory only" in caplog.text
    assert journal.add(resolution(3))
    crash(journal)
    assert Journal(tmp_path, "two").take_over() == [resolution(1), resolution(3)]
