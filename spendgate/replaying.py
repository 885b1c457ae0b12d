"""Replays of the past, in a process of their own: a worker that carries calls has no time for a million old ones.

The process is given what is asked, with the routes and prices that its worker has, and answers in JSON. What it is
given is pickled: both are one program. It reads the ledger over its socket, has the worker's environment, and gives way
to everything else on the machine.

Failure policy: one that ends badly is told of as `LedgerUnavailable`; it never outlives who asked by more than the time
that it was given.
"""

import asyncio
import os
import pickle
import sys
from dataclasses import dataclass, field

import orjson
from pydantic import TypeAdapter

from core.clock import Clock, SystemClock
from core.errors import SpendgateError
from dashboard.replay import replay
from dashboard.what_if import Replay, ReplayAsk
from gateway.rulebook import Rulebooks
from ledger.errors import LedgerUnavailable
from routing.model import Routes
from spendgate.catalog import smallest_call_nano
from spendgate.ledger_client import LedgerClient
from spendgate.logs import set_up_logging
from spendgate.settings import read_settings
from telemetry.prices import PriceBook

_REPLAY = TypeAdapter(Replay)
#: Beyond the time that the replay is given: to start, and to finish a page.
_GRACE_S = 30.0
_NICE = 10


@dataclass(slots=True)
class ReplayProcess:
    """`dashboard.what_if.Replays`. One at a time: others wait.

    prices: as they are when it is asked.
    """

    routes: Routes
    prices: PriceBook
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def replay(self, ask: ReplayAsk) -> Replay:
        """The past under another budget.

        Raises:
            LedgerUnavailable: the calls can't be read.
        """
        async with self._one:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "spendgate.replaying", stdin=pipe, stdout=pipe
            )
            try:
                async with asyncio.timeout(ask.most_s + _GRACE_S):
                    told, _ = await process.communicate(pickle.dumps((ask, self.routes, self.prices)))
            except TimeoutError:
                raise LedgerUnavailable("the replay took too long") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        found = orjson.loads(told or b"{}")
        if "replay" not in found:
            raise LedgerUnavailable(found.get("error", "the replay ended without an answer; see the log"))
        return _REPLAY.validate_python(found["replay"])


def rulebooks(routes: Routes, prices: PriceBook, clock: Clock) -> Rulebooks:
    """The rules of budgets under these routes and prices."""
    return Rulebooks(routes, prices, smallest_call_nano(routes, prices, clock.now_ms()), clock)


def main() -> int:
    """Answer one question; the process's exit code."""
    os.nice(_NICE)
    try:
        ask, routes, prices = pickle.load(sys.stdin.buffer)
        settings = read_settings()
        set_up_logging(settings.log_level)
        clock, ledger = SystemClock(), LedgerClient(settings.data_dir, settings.namespace)
        found = asyncio.run(replay(ask, ledger, rulebooks(routes, prices, clock), clock))
    except SpendgateError as error:
        sys.stdout.buffer.write(orjson.dumps({"error": error.message}))
        return 1
    sys.stdout.buffer.write(b'{"replay":%b}' % _REPLAY.dump_json(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
