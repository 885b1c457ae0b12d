"""A gateway under mixed traffic, while something breaks every few seconds; at the end the books must be right.

    make soak MINUTES=10
    python -m tests.soak.run --minutes 2 --only ledger,kill,server --ledger clickhouse

Two workers, a real store and the simulator, each behind a proxy. Callers call, stream, leave, and come again; a worker
is killed, the store is killed, frozen, emptied or cut off, the ledger's process is killed, the upstream resets.
Afterwards everything heals, and: nothing is held, `verify` is clean, the books have no less than the upstream's bill,
the ledger has the books' money once, to the nano-dollar, no cap was passed, and the supervisor, which lives through all
of it, has not grown.

Where only the store and what keeps the ledger are killed, and nobody leaves in mid-stream, nothing has to be estimated:
then the books are the upstream's bill, to the nano-dollar.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from core.clock import SystemClock
from tests.support.bill import bill_nano
from tests.support.chdb_server import chdb_server
from tests.support.invariants import assert_books_are_right
from tests.support.ledger import assert_ledger_is_right
from tests.support.rig import Rig, running_rig
from tests.support.waiting import eventually

CALLERS = 6
AGENTS = tuple(f"agent-{n}" for n in range(4))
LIMIT_USD = 0.05
KINDS = ("worker", "freeze", "store", "upstream", "slow", "flush", "ledger", "kill")
#: Kills the ledger's server, where it has one.
SERVER = "server"
#: After these the books are exactly the bill.
EXACT = frozenset({"ledger", "kill", SERVER})
BREAK_EVERY_S = 4.0
#: No process has this id; the ledger's may not be there at the moment.
_NOBODY = 2**22 + 1
HEALED_S = 30.0
#: What the supervisor may grow by: it reads every event once and keeps none, but for those that a rebuild does again.
GROWTH_BYTES = 48 * 1024 * 1024
GROWTH_PER_CALL_BYTES = 500


@dataclass
class ClickHouse:
    """The ledger's server, on one port and one folder."""

    folder: Path
    url: str = ""
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        """On the data that is there."""
        port = urlsplit(self.url).port or 0
        server = self._running.enter_context(chdb_server(self.folder, port=port))
        server.execute("CREATE DATABASE IF NOT EXISTS books")
        self.url = f"clickhouse://127.0.0.1:{server.port}/books"

    def kill(self) -> None:
        """kill -9."""
        self._running.close()


@dataclass
class Soak:
    """One run.

    kinds: of faults. server: the ledger's; None: it is embedded. statuses: of all answers; 0: the connection broke.
    broken: what was done.
    """

    rig: Rig
    rng: random.Random
    until_s: float
    limit_usd: float
    kinds: tuple[str, ...] = KINDS
    server: ClickHouse | None = None
    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    @property
    def exact(self) -> bool:
        """Nothing happens that the books can only estimate."""
        return EXACT.issuperset(self.kinds)

    def caller(self, seed: int) -> None:
        """Call until the time is over."""
        rng = random.Random(seed)
        while time.monotonic() < self.until_s:
            agent, kind = rng.choice(AGENTS), rng.random()
            if kind < 0.15 and not self.exact:
                self._leave(agent, rng.random() * 0.1)
                continue
            fields = {"stream": kind < 0.4, "maxTokens": rng.choice((5, 50, 300))}
            timed = self.rig.call(agent, **fields)
            self.statuses[timed.status] += 1
            if timed.status != 200:
                time.sleep(0.05)  # as a client that waits before it comes again

    def _leave(self, agent: str, after_s: float) -> None:
        gateway = self.rig.gateway
        body = {"prompt": "Hello", "scopeType": "agent", "scopeKey": agent, "stream": True, "maxTokens": 300}
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=10)
            headers = {"Authorization": f"Bearer {gateway.agent_key}", "Content-Type": "application/json"}
            connection.request("POST", "/agent/chat", json.dumps(body), headers)
            time.sleep(after_s)
            connection.close()

    def break_something(self) -> None:
        """One fault, of a second or so, and its end."""
        rig, kind = self.rig, self.rng.choice(self.kinds)
        self.broken[kind] += 1
        if kind == "worker":
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(self.rng.choice(rig.gateway.worker_pids()), signal.SIGKILL)
        elif kind == "freeze":
            rig.store.freeze()
            time.sleep(1)
            rig.store.thaw()
        elif kind == "store":
            rig.to_store.reset(new=True)
            time.sleep(0.5)
            rig.to_store.heal()
        elif kind == "upstream":
            rig.to_upstream.reset()
        elif kind == "slow":
            rig.to_store.delay(0.2)
            time.sleep(1)
            rig.to_store.heal()
        elif kind == "ledger":
            with contextlib.suppress(ProcessLookupError):
                os.kill(rig.gateway.ledger_pid() or _NOBODY, signal.SIGKILL)
        elif kind == SERVER:
            assert self.server
            self.server.kill()
            time.sleep(self.rng.random())
            self.server.start()
        elif kind == "kill":
            rig.store.kill()
            time.sleep(0.2)
            rig.store.start()
        else:
            rig.store.command("FLUSHALL")

    def check(self) -> None:
        """Everything has healed: the promises.

        Raises:
            AssertionError: one was not kept.
        """
        rig = self.rig
        rig.to_store.heal()
        rig.to_upstream.heal()
        eventually(lambda: rig.call("at-the-end").status == 200, "it serves again", HEALED_S)
        rig.simulator.wait_idle(HEALED_S)
        eventually(lambda: rig.store.command("ZCARD", "sg:{main}:leases") == 0, "nothing is held", HEALED_S)
        assert_books_are_right(rig.gateway)
        assert_ledger_is_right(rig.gateway, HEALED_S)
        for agent in AGENTS:
            spend, billed = rig.gateway.spend(agent), bill_nano(rig.simulator.bill(recent=10**6), agent=agent)
            books = round(spend["spent"] * 10**9)
            print(f"{agent}: billed {billed}, on the books {books} nano-dollars, of {spend['limit']} USD")
            assert billed <= books, "the books have no less than the bill"
            assert billed == books or not self.exact, "the books are the bill"
            assert billed <= self.limit_usd * 1.2 * 10**9, "the bill is within the cap"


def soak(
    seconds: float,
    seed: int,
    limit_usd: float = LIMIT_USD,
    kinds: tuple[str, ...] = KINDS,
    *,
    in_clickhouse: bool = False,
) -> None:
    """Run for so long, then check.

    Raises:
        AssertionError: a promise was not kept.
    """
    settings = {
        "BUDGET_DEFAULT_LIMIT": str(limit_usd),
        "SPENDGATE_VERIFY_EVERY_S": "2",
        "SPENDGATE_CALL_TIMEOUT_S": "10",
        "SPENDGATE_LEDGER": "embedded",
        "SPENDGATE_STREAM_KEEP_S": "10",
    }
    with contextlib.ExitStack() as stack:
        server = None
        if in_clickhouse:
            server = ClickHouse(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            server.start()
            stack.callback(server.kill)
            settings["SPENDGATE_LEDGER"] = server.url
        rig = stack.enter_context(running_rig(**settings))
        run = Soak(rig, random.Random(seed), time.monotonic() + seconds, limit_usd, kinds, server)
        callers = [threading.Thread(target=run.caller, args=(seed * 1000 + n,)) for n in range(CALLERS)]
        for caller in callers:
            caller.start()
        began_bytes = 0
        while time.monotonic() < run.until_s:
            time.sleep(min(BREAK_EVERY_S, max(0.0, run.until_s - time.monotonic())))
            run.break_something()
            began_bytes = began_bytes or _resident_bytes(rig.gateway.process.pid)
            left_s = max(0.0, run.until_s - time.monotonic())
            print(f"\r{left_s:5.0f} s left, {sum(run.statuses.values())} calls", end="", flush=True)
        for caller in callers:
            caller.join()
        print(f"\nanswers {dict(run.statuses)}, broken {dict(run.broken)}")
        run.check()
        grown = _resident_bytes(rig.gateway.process.pid) - began_bytes
        print(f"the supervisor grew by {grown / 2**20:.1f} MiB")
        allowed = GROWTH_BYTES + GROWTH_PER_CALL_BYTES * sum(run.statuses.values())
        assert grown < allowed, "the supervisor does not grow"


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def main() -> int:
    """The command line; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=SystemClock().now_ms() % 10**6, help="of what happens; not of when")
    parser.add_argument(
        "--limit-usd", type=float, default=LIMIT_USD, help="of each agent; a large one is never reached"
    )
    parser.add_argument("--only", help=f"kinds of faults, of {', '.join((*KINDS, SERVER))}; all, if not given")
    parser.add_argument("--ledger", choices=("embedded", "clickhouse"), default="embedded")
    options = parser.parse_args()
    in_clickhouse = options.ledger == "clickhouse"
    kinds = tuple(options.only.split(",")) if options.only else (*KINDS, *((SERVER,) if in_clickhouse else ()))
    if unknown := set(kinds) - {*KINDS, *((SERVER,) if in_clickhouse else ())}:
        parser.error(f"no such faults here: {', '.join(sorted(unknown))}")
    print(f"seed {options.seed}, {options.minutes:g} minutes")
    try:
        soak(options.minutes * 60, options.seed, options.limit_usd, kinds, in_clickhouse=in_clickhouse)
    except AssertionError as error:
        print(f"BROKEN: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
