"""What is guaranteed in this very configuration, and what is not, in plain words."""

from collections.abc import Iterable
from dataclasses import dataclass

from budget.connect import ServerReport
from routing.model import OnAbort, Routes
from spendgate.settings import Role, Settings

_ALWAYS = (
    "No call leaves before its ceiling is held on every budget of its chain; spent + held never passes a hard cap "
    "at admission, whatever the number of workers and calls.",
    "A model without a price is refused. No answer without usage is free.",
    "Every attempt ends in exactly one event; a hold that nobody settles is charged in full when its lease ends.",
    "When the store is away, calls are refused and nothing is sent upstream.",
    "A settlement that can't reach the store waits on disk and is applied once.",
)


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A statement; `holds` is False where money could be lost or a cap passed."""

    holds: bool
    text: str


def guarantees(report: ServerReport, routes: Routes, settings: Settings) -> list[Guarantee]:
    """Statements for this store, these routes and these settings, those that do not hold last."""
    found = [Guarantee(True, text) for text in _ALWAYS]
    found += _of_store(report)
    found += _of_memory(report, settings)
    found += _of_routes(routes)
    return sorted(found, key=lambda g: not g.holds)


def _of_store(report: ServerReport) -> Iterable[Guarantee]:
    if not report.appendonly:
        yield Guarantee(False, "The store keeps no append-only file: a crash of it forgets spend.")
    elif report.appendfsync == "always":
        yield Guarantee(True, "The store syncs every write: a power cut forgets nothing that was acknowledged.")
    else:
        yield Guarantee(True, "A crash of the store's process forgets nothing that was acknowledged.")
        yield Guarantee(
            False,
            f"The store syncs its file {report.appendfsync or 'at an unknown pace'}: a power cut can forget the last "
            "second of spend. SPENDGATE_FSYNC=always (embedded) or appendfsync always (yours) closes this.",
        )
    if report.maxmemory_bytes and report.maxmemory_policy != "noeviction":
        yield Guarantee(False, f"The store evicts keys ({report.maxmemory_policy}): a budget can be forgotten.")
    for problem in report.problems:
        yield Guarantee(False, f"The store: {problem}.")


def _of_memory(report: ServerReport, settings: Settings) -> Iterable[Guarantee]:
    if settings.role is Role.GATEWAY:
        yield Guarantee(
            True, "A store that lost memory is noticed and refused; a control process, which keeps a copy, rebuilds it."
        )
    else:
        yield Guarantee(
            True,
            "A store that lost memory (FLUSHALL, an old snapshot, a failover to a replica that lags) is noticed, "
            "refused, and rebuilt to the same numbers from the copy of its events here.",
        )
    if settings.wait_replicas:
        yield Guarantee(True, f"A call leaves only after {settings.wait_replicas} replica(s) have its hold.")
    elif report.replicas:
        yield Guarantee(
            False,
            "A failover forgets the last holds; workers that live bring them back, those of a worker that dies with "
            "the primary are lost. SPENDGATE_WAIT_REPLICAS=1 closes this.",
        )
    if settings.wait_fsync:
        yield Guarantee(True, "A call leaves only after its hold is on disk.")


def _of_routes(routes: Routes) -> Iterable[Guarantee]:
    kinds = {e.kind for e in routes.endpoints.values()}
    if kinds & {"databricks", "anthropic"}:
        yield Guarantee(True, "Databricks and Anthropic document max_tokens as a bound on what they generate and bill.")
    loose = sorted(e.name for e in routes.endpoints.values() if e.kind in ("openai", "litellm"))
    if loose:
        yield Guarantee(
            False,
            f"The cap relies on {', '.join(loose)} to obey max_tokens. One that does not can pass a hard cap by one "
            "call's excess, which is posted in full and stops the next call.",
        )
    guessed = sorted(e.name for e in routes.endpoints.values() if e.on_abort is OnAbort.ESTIMATE)
    if guessed:
        yield Guarantee(
            False,
            f"A stream of {', '.join(guessed)} whose client leaves is charged by an estimate that leans upwards, "
            "not by a bound. on_abort: drain (exact, the answer is paid to its end) or charge_hold closes this.",
        )
    images = sorted(m.name for m in routes.models if m.max_tokens_per_image is not None)
    if images:
        yield Guarantee(False, f"Images to {', '.join(images)} are bounded by your own max_tokens_per_image.")
