"""The figures of all rounds as Markdown tables that also read well on a terminal."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from bench.speed.measure import Figures, Round

_NONE = "–"


@dataclass(slots=True)
class Entry:
    """A contestant and its rounds, in order. direct: the calls without a gateway, round by round."""

    key: str
    name: str
    version: str
    budgets: str
    rounds: list[Round] = field(default_factory=list)
    direct: list[Figures] = field(default_factory=list)

    def median(self, figure: Callable[[Figures], float]) -> float | None:
        """Over the rounds that have it."""
        values = []
        for one in self.rounds:
            try:
                values.append(figure(one.figures))
            except KeyError:
                continue
        return statistics.median(values) if values else None

    def spread(self, name: str) -> float | None:
        """From the lowest to the highest round, in per cent of the median."""
        values = [one.figures[name] for one in self.rounds if name in one.figures]
        return 100 * (max(values) - min(values)) / statistics.median(values) if values else None

    def added(self, name: str, direct_name: str) -> float | None:
        """The median of what comes on top of a direct call in the same round, µs."""
        pairs = zip(self.rounds, self.direct, strict=True)
        values = [one.figures[name] - direct[direct_name] for one, direct in pairs if name in one.figures]
        return statistics.median(values) if values else None

    def ratio(self, name: str, other: "Entry") -> float | None:
        """The median of its ratios to the other in the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        values = [a.figures[name] / b.figures[name] for a, b in pairs if name in a.figures and name in b.figures]
        return statistics.median(values) if values else None


def report(entries: Sequence[Entry], yardstick: Entry | None, absent: Mapping[str, str]) -> str:
    """All tables, and what is missing in them."""
    alone = [entry for entry in entries if not _is_spread(entry)]
    parts = [_calls(alone, yardstick), _latency(alone), _streams(alone, yardstick)]
    parts += [_callers(entry, entries) for entry in entries if entry.key == "spendgate"]
    parts += [notes] if (notes := _notes(entries, absent)) else []
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column flush left, the others flush right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def _calls(entries: Sequence[Entry], yardstick: Entry | None) -> str:
    head = (
        *("gateway", "budgets", "CPU µs a call", "× nginx", "rounds differ by"),
        *("store's CPU µs", "calls/s of one core", "memory MiB"),
    )
    rows = [
        (
            f"{entry.name} {entry.version}",
            entry.budgets,
            _number(entry.median(itemgetter("cpu_us")), 1),
            _number(entry.ratio("cpu_us", yardstick), 1) if yardstick else _NONE,
            _number(entry.spread("cpu_us"), unit=" %"),
            _number(entry.median(itemgetter("store_cpu_us")) or None),
            _number(entry.median(itemgetter("rate"))),
            _memory(entry),
        )
        for entry in entries
    ]
    return (
        "**What a call costs**, 32 callers at once, as fast as it goes. The processor time is that of the serving"
        " process, in user and kernel mode, all threads; ratios are taken within a round. Memory: after all of the"
        " load; a store's is behind the +.\n\n" + table(head, rows)
    )


def _latency(entries: Sequence[Entry]) -> str:
    head = ("gateway", "added, p50", "added, p99", "half load, p50", "half load, p99", "1,000 at once, p50", "p99")
    rows = [
        (
            entry.name,
            _number(entry.added("one_p50_us", "one_p50_us")),
            _number(entry.added("one_p99_us", "one_p50_us")),
            _number(entry.median(itemgetter("half_p50_us"))),
            _number(entry.median(itemgetter("half_p99_us"))),
            _number(entry.median(lambda f: f["crowd_p50_us"] / 1000), unit=" ms"),
            _number(entry.median(lambda f: f["crowd_p99_us"] / 1000), unit=" ms"),
        )
        for entry in entries
    ]
    return (
        "**How long a call takes**, µs. Added: one caller at a time, less the p50 of a call without a gateway; part of"
        " it is to wake a process on another core twice, which nginx pays too. Half load: calls come at half of the"
        " gateway's own highest rate, whether it keeps up or not. 1,000 at once: so many callers, and an upstream that"
        " takes 50 ms.\n\n" + table(head, rows)
    )


def _streams(entries: Sequence[Entry], yardstick: Entry | None) -> str:
    head = ("gateway", "first byte, added µs", "CPU µs a chunk, fast", "× nginx", "paced", "× nginx")
    rows = [
        (
            entry.name,
            _number(entry.added("first_byte_us", "first_byte_us")),
            _number(entry.median(itemgetter("chunk_fast_us")), 1),
            _number(entry.ratio("chunk_fast_us", yardstick), 1) if yardstick else _NONE,
            _number(entry.median(itemgetter("chunk_paced_us")), 1),
            _number(entry.ratio("chunk_paced_us", yardstick), 1) if yardstick else _NONE,
        )
        for entry in entries
    ]
    return (
        "**Streams** of 64 chunks of 200 bytes; the whole stream's processor time, divided by 64. Fast: 8 streams at"
        " once, chunks without a pause, so that several may arrive together. Paced: 16 at once, a chunk every 10 ms."
        "\n\n" + table(head, rows)
    )


def _callers(entry: Entry, entries: Sequence[Entry]) -> str:
    """What more budgets and workers cost Spendgate."""
    head = ("Spendgate", "CPU µs a call", "store's CPU µs", "calls/s")
    rows = [("one agent", *_costs(entry, ""))]
    names = {name.removeprefix("cpu_us ") for one in entry.rounds for name in one.figures if name.startswith("cpu_us ")}
    rows += [(name, *_costs(entry, f" {name}")) for name in sorted(names, key=lambda name: int(name.split()[0]))]
    rows += [(f"one agent, {other.name.split(', ')[1]}", *_costs(other, "")) for other in entries if _is_spread(other)]
    return (
        "**More budgets**: every agent has a budget of its own, and the team's above it, so that all calls contend"
        " for one. Spendgate has no switch that turns budgets off; all limits are out of reach. Two workers share both"
        " cores with the load, so only their processor time tells something.\n\n" + table(head, rows)
    )


def _costs(entry: Entry, suffix: str) -> tuple[str, str, str]:
    names = [f"{name}{suffix}" for name in ("cpu_us", "store_cpu_us", "rate")]
    cpu, store, rate = (_number(entry.median(itemgetter(name))) for name in names)
    return cpu, store, rate


def _memory(entry: Entry) -> str:
    store = entry.median(itemgetter("store_memory_mib"))
    return _number(entry.median(itemgetter("memory_mib"))) + (f" + {_number(store)}" if store else "")


def _notes(entries: Sequence[Entry], absent: Mapping[str, str]) -> str:
    lines = [
        f"- {entry.name}: {name} failed in {count} of {len(entry.rounds)} rounds: {reason}"
        for entry in entries
        for name, (count, reason) in _problems(entry).items()
    ]
    lines += [f"- Not measured: {name}: {reason}." for name, reason in absent.items()]
    return "\n".join(lines)


def _problems(entry: Entry) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for one in entry.rounds:
        for name, reason in one.problems.items():
            found[name] = (found.get(name, (0, ""))[0] + 1, reason)
    return found


def _is_spread(entry: Entry) -> bool:
    return entry.name.endswith("workers")


def _number(value: float | None, digits: int = 0, unit: str = "") -> str:
    return _NONE if value is None else f"{value:,.{digits}f}{unit}"
