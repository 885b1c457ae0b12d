"""`spendgate serve`: one supervisor and its children.

1. the store: yours (REDIS_URL), or an embedded Valkey on the data folder;
2. the upstream: yours, or the simulated Databricks when DATABRICKS_BASE_URL is not set;
3. `bootstrap.prepare` checks the store and writes keys and budgets; `keeper` begins to copy its events;
4. the supervisor binds the port; N workers serve it (`spendgate.worker`), and are started again when they die;
5. when the first answers `/readyz`, the banner is printed;
6. SIGTERM or Ctrl-C: workers drain, then simulator and embedded store stop.

Failure policy: a child never outlives the supervisor (`spendgate.orphans`), but the embedded store does, so that a
kill -9 loses nothing; the next start adopts it. A store that dies is started again on its data; until it answers,
the workers refuse every call.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass, field

from budget.connect import connect
from budget.embedded import EmbeddedValkey
from budget.redis_store import RedisBudgetStore
from core.clock import Clock, SystemClock
from core.errors import ConfigError, SpendgateError
from core.ids import RandomIds
from spendgate.banner import banner
from spendgate.bootstrap import Prepared, prepare
from spendgate.catalog import SIMULATED
from spendgate.open_ledger import OFF
from spendgate.settings import Role, Settings
from spendgate.tasks import stop_all

log = logging.getLogger("spendgate")

_START_TIMEOUT_S = 30.0
_RESTART_PAUSES_S = (0.1, 0.5, 2.0, 5.0, 10.0)
_STORE_CHECK_S = 0.25
_CONFIG_ERROR = 78


@dataclass(slots=True)
class Supervisor:
    """Starts the parts, watches them, stops them."""

    settings: Settings
    clock: Clock = field(default_factory=SystemClock)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None
    embedded: EmbeddedValkey | None = None

    async def run(self) -> int:
        """Serve until a signal; the exit code.

        Raises:
            SpendgateError: it could not start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        parent_read, parent_write = os.pipe()  # children keep the read end; ours closes when we die
        simulator: asyncio.subprocess.Process | None = None
        try:
            redis_url = self.settings.redis_url
            if redis_url is None:
                redis_url = await asyncio.to_thread(self._start_embedded)
            environment = os.environ | {"REDIS_URL": redis_url}
            if self._simulates():
                simulator, url = await self._start_simulator(parent_read)
                environment |= SIMULATED | {"DATABRICKS_BASE_URL": url}
            await self._keep_books(environment, parent_read, redis_url)
        finally:
            os.close(parent_write)
            if simulator is not None:
                await _stop(simulator, 5)
            os.close(parent_read)
            if self.embedded is not None:
                await asyncio.to_thread(self.embedded.stop)
        if self.failure:
            raise ConfigError(self.failure)
        return 0

    async def _keep_books(self, environment: dict[str, str], parent_fd: int, redis_url: str) -> None:
        """Serve, with a copy of the store's events kept from before the first worker until after the last."""
        from spendgate.auditor import Auditor  # both load `telemetry.metrics`: not before its folder is named
        from spendgate.keeper import Keeper

        keeper = Keeper.open(self.settings, redis_url, self.clock, RandomIds(self.clock))
        following: list[asyncio.Task[None]] = []
        try:
            prepared = await prepare(self.settings, redis_url, self.clock, keeper.begin)
            following.append(asyncio.create_task(keeper.run()))
            if self.settings.verify_every_s and self.settings.role is not Role.GATEWAY:
                auditor = Auditor(keeper.store, self.clock, self.settings.verify_every_s)
                following.append(asyncio.create_task(auditor.run()))
            await self._serve(environment, parent_fd, prepared)
        finally:
            await stop_all(following)
            await keeper.close()

    def _simulates(self) -> bool:
        """Databricks is simulated only when no upstream of the user's own is configured."""
        needed = self.settings.role is not Role.CONTROL
        return needed and self.settings.databricks_base_url is None and self.settings.routes is None

    def _start_embedded(self) -> str:
        """Start the embedded store, for the first time or after its death; its URL, which is always the same."""
        settings = self.settings
        if self.embedded is not None:
            self.embedded.stop()  # gives the folder free
        self.embedded = EmbeddedValkey.start(
            settings.data_dir / "valkey", binary=settings.valkey_bin, fsync=settings.fsync
        )
        return self.embedded.url

    async def _keep_store(self) -> None:
        """The embedded store, started again when it dies, until the supervisor stops."""
        failures = 0
        while not self.stopping.is_set():
            pause_s = _RESTART_PAUSES_S[min(failures, len(_RESTART_PAUSES_S)) - 1] if failures else _STORE_CHECK_S
            await self._pause(pause_s)
            if self.stopping.is_set() or self.embedded is None or self.embedded.is_running():
                continue
            log.error("the embedded store died and is started again")
            try:
                await asyncio.to_thread(self._start_embedded)
                failures = 0
            except ConfigError as error:  # a full disk, perhaps: it is tried again
                failures += 1
                log.error("%s", error.message)

    async def _pause(self, pause_s: float) -> None:
        """Wait, but not beyond the moment when the supervisor is told to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), pause_s)

    async def _start_simulator(self, parent_fd: int) -> tuple[asyncio.subprocess.Process, str]:
        ready_read, ready_write = os.pipe()
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "spendgate.simulator_process", "--ready-fd", str(ready_write), "--parent-fd", str(parent_fd)),
            *("--bill-path", str(self.settings.data_dir / "simulated-bill.json")),
            pass_fds=(ready_write, parent_fd),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops its children in order
        )
        os.close(ready_write)
        with os.fdopen(ready_read) as ready:
            port = (await asyncio.to_thread(ready.readline)).strip()
        if not port:
            raise ConfigError("the simulated Databricks did not start; its message is above")
        return process, f"http://127.0.0.1:{port}"

    async def _serve(self, environment: dict[str, str], parent_fd: int, prepared: Prepared) -> None:
        listener = _bind(self.settings.host, self.settings.port)
        port = listener.getsockname()[1]
        keepers = [
            asyncio.create_task(self._keep_worker(environment, listener.fileno(), parent_fd))
            for _ in range(self.settings.workers)
        ]
        if self.settings.ledger != OFF and self.settings.role is not Role.GATEWAY:
            keepers.append(asyncio.create_task(self._keep_ledger(environment, parent_fd)))
        if self.embedded is not None:
            keepers.append(asyncio.create_task(self._keep_store()))
        jobs = [asyncio.create_task(self._announce(port, environment, prepared))]
        if self.settings.edge_config and self.settings.role is not Role.GATEWAY:
            jobs.append(asyncio.create_task(self._poll_edge_config(environment["REDIS_URL"])))
        try:
            await self.stopping.wait()
        finally:
            self.stopping.set()
            await stop_all(jobs)
            await asyncio.gather(*keepers)
            listener.close()

    async def _keep_worker(self, environment: dict[str, str], listen_fd: int, parent_fd: int) -> None:
        """One worker, until the supervisor stops."""
        await self._keep(
            "a worker",
            ["-m", "spendgate.worker", "--fd", str(listen_fd), "--parent-fd", str(parent_fd)],
            (listen_fd, parent_fd),
            environment,
        )

    async def _keep_ledger(self, environment: dict[str, str], parent_fd: int) -> None:
        """The owner of the ledger, until the supervisor stops."""
        await self._keep(
            "the ledger's process",
            ["-m", "spendgate.ledger_process", "--parent-fd", str(parent_fd)],
            (parent_fd,),
            environment,
        )

    async def _keep(self, name: str, command: list[str], fds: tuple[int, ...], environment: dict[str, str]) -> None:
        """A child, started again when it dies, until the supervisor stops."""
        deaths = 0
        while not self.stopping.is_set():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                pass_fds=fds,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            started_s = self.clock.monotonic_s()
            died = asyncio.create_task(process.wait())
            stop = asyncio.create_task(self.stopping.wait())
            await asyncio.wait({died, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not died.done():
                await _stop(process, self.settings.drain_s + 5)
                return
            if process.returncode == _CONFIG_ERROR:
                self.failure = f"{name} could not start; its message is above"
                self.stopping.set()
                return
            _forget_numbers(process.pid)
            deaths = 0 if self.clock.monotonic_s() - started_s > 60 else deaths + 1
            log.error("%s died (exit code %s) and is started again", name, process.returncode)
            pause_s = _RESTART_PAUSES_S[min(deaths, len(_RESTART_PAUSES_S) - 1)]
            await self._pause(pause_s)

    async def _announce(self, port: int, environment: dict[str, str], prepared: Prepared) -> None:
        host = self.settings.host if self.settings.host not in ("0.0.0.0", "::") else "127.0.0.1"
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        reason = await self._wait_until_ready(host, port)
        if reason is None:
            upstream = environment["DATABRICKS_BASE_URL"] if self._simulates() else None
            print(banner(url, self.settings, prepared, upstream, self.embedded), flush=True)
        else:
            log.error("not ready after %.0f s: %s", _START_TIMEOUT_S, reason)

    async def _wait_until_ready(self, host: str, port: int) -> str | None:
        """None once `/readyz` says yes; otherwise the last reason it gave."""
        deadline_s = self.clock.monotonic_s() + _START_TIMEOUT_S
        reason = "no answer"
        while self.clock.monotonic_s() < deadline_s:
            with contextlib.suppress(OSError, ValueError, LookupError):
                why_not = await _why_not_ready(host, port)
                if why_not is None:
                    return None
                reason = why_not
            await asyncio.sleep(0.05)
        return reason

    async def _poll_edge_config(self, redis_url: str) -> None:
        from spendgate.edge_config import EdgeConfigPoller  # its HTTP client is slow to load

        client = connect(redis_url)
        store = RedisBudgetStore(client, namespace=self.settings.namespace)
        poller = EdgeConfigPoller(self.settings.edge_config or "", documents=store, clock=self.clock)
        try:
            await poller.run()
        finally:
            await store.close()


def serve(settings: Settings) -> int:
    """Run a supervisor; the exit code. A start that fails says why on stderr."""
    with tempfile.TemporaryDirectory(prefix="spendgate-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before any process of ours loads `telemetry.metrics`
        try:
            return asyncio.run(Supervisor(settings).run())
        except SpendgateError as error:
            print(f"spendgate: {error.message}", file=sys.stderr)
            return 1


async def _why_not_ready(host: str, port: int) -> str | None:
    """Ask `/readyz`. An HTTP client would take a tenth of a second to load."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: spendgate\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return None if head.split()[1] == b"200" else str(json.loads(body)["reason"])


def _forget_numbers(pid: int) -> None:
    from telemetry.metrics import forget_process  # not before its folder is named

    forget_process(pid)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror}; set PORT to another") from None
    listener.listen(4096)
    return listener


async def _stop(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
