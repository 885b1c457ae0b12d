"""The copy of the events on disk: whole, in order, and never half believed."""

from pathlib import Path

import pytest

from budget.archive import Archive
from budget.sealed import seal, unseal
from core.errors import ConfigError


def event(number: int) -> tuple[str, dict[str, str]]:
    return f"{number}-0", {"seq": str(number), "type": "post", "text": "a\n'\"é" * number}


def events(*numbers: int) -> list[tuple[str, dict[str, str]]]:
    return [event(n) for n in numbers]


def rows(archive: Archive) -> list[tuple[str, dict[str, str]]]:
    return [(e.id, e.fields) for e in archive.entries()]


def test_what_goes_in_comes_out(tmp_path: Path):
    archive = Archive(tmp_path)
    assert (archive.epoch, archive.last, archive.sequence) == (None, None, 0)
    archive.enter("ep_1")
    archive.append(events(1, 2))
    archive.append(events(3))
    archive.append([])
    archive.close()
    again = Archive(tmp_path)
    assert (again.epoch, again.sequence) == ("ep_1", 3)
    assert again.last and (again.last.id, again.last.fields) == event(3)
    assert rows(again) == events(1, 2, 3)
    again.append(events(4))
    assert rows(again) == events(1, 2, 3, 4)
    again.close()


@pytest.mark.parametrize("torn", [1, 5, 9, 20])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: int):
    archive = Archive(tmp_path)
    archive.append(events(1, 2))
    archive.close()
    log = tmp_path / "events.log"
    whole = log.read_bytes()
    log.write_bytes(whole[:-torn])
    again = Archive(tmp_path)
    assert rows(again) == events(1)
    again.append(events(2))
    assert log.read_bytes() == whole
    again.close()


def test_a_single_torn_line_leaves_nothing(tmp_path: Path):
    (tmp_path / "events.log").write_bytes(b"0000")
    archive = Archive(tmp_path)
    assert archive.last is None
    assert not (tmp_path / "events.log").read_bytes()
    archive.close()


def test_a_damaged_line_is_not_passed_over(tmp_path: Path):
    archive = Archive(tmp_path)
    archive.append(events(1, 2, 3))
    log = tmp_path / "events.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[1].replace(b"post", b"past") + lines[2])
    with pytest.raises(ConfigError, match="is damaged before byte"):
        rows(archive)
    archive.close()


def test_one_process_keeps_it(tmp_path: Path):
    archive = Archive(tmp_path)
    with pytest.raises(BlockingIOError, match="another process"):
        Archive(tmp_path)
    archive.close()
    Archive(tmp_path).close()


def test_a_tail_is_replaced_and_stays_beside_it(tmp_path: Path):
    archive = Archive(tmp_path)
    archive.append(events(1, 2, 3))
    end = next(e.end for e in archive.entries() if e.id == "1-0")
    archive.replace_tail(end, events(7, 8), "events.before")
    assert rows(archive) == events(1, 7, 8)
    assert archive.sequence == 8
    archive.append(events(9))
    archive.close()
    again = Archive(tmp_path)
    assert rows(again) == events(1, 7, 8, 9)
    again.close()
    (tmp_path / "events.before").rename(tmp_path / "events.log")
    assert rows(Archive(tmp_path)) == events(1, 2, 3)


def test_a_disk_that_is_full_leaves_the_archive_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    archive = Archive(tmp_path)
    archive.append(events(1))
    with monkeypatch.context() as patched:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            archive.append(events(2))
    assert archive.sequence == 1
    assert rows(archive) == events(1)
    archive.append(events(2))
    assert rows(archive) == events(1, 2)
    archive.close()


def test_a_seal_shows_every_change():
    line = seal(b"hello")
    assert unseal(line) == unseal(line[:-1]) == b"hello"
    for index in range(len(line) - 1):
        assert unseal(line[:index] + bytes([line[index] ^ 1]) + line[index + 1 :]) is None
