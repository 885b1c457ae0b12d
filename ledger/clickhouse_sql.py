"""The SQL of the ClickHouse engine: its files, and the parts that depend on what is asked."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from core.values import value
from ledger.columns import CHARGE_COLUMNS, Column, Kind
from ledger.duckdb_sql import CHARGE_COLUMN_OF, check_dimension
from ledger.model import Position
from ledger.ports import CALL_DIMENSIONS, CHARGE_DIMENSIONS, Filter, PastCallsAsk, SpendAsk
from ledger.scopes import UNSUMMED
from ledger.spans import DAY_MS, RECORDS, SPANS_MS, Stretch, reaches, stretches

_TYPES = {
    Kind.TEXT: "String",
    Kind.JSON: "String",
    Kind.TIME: "DateTime64(3, 'UTC')",
    Kind.MONEY: "Decimal(38, 12)",
    Kind.UNIT_PRICE: "Decimal(38, 18)",
    Kind.QUANTITY: "Decimal(38, 12)",
    Kind.WHOLE: "Int64",
}
#: Text that is another one for nearly every call; all other text repeats.
_VARIED = ("x_SourceRecordId", "x_RequestId", "x_AttemptId", "x_TraceId", "x_HoldId", "Tags", "x_ScopePath")
_CALL_COLUMNS = {name: name for name in CALL_DIMENSIONS} | {"model": "model_served", "agent": "agent", "team": "team"}


@cache
def sql(name: str) -> str:
    """A file of `ledger/sql/clickhouse`, by its name without suffix."""
    return files("ledger").joinpath("sql", "clickhouse", f"{name}.sql").read_text()


def schema() -> list[str]:
    """Statements that make what is missing."""
    charges = ", ".join(f"`{c.name}` {_type(c)}" for c in CHARGE_COLUMNS)
    lines = [line for line in sql("schema").splitlines() if not line.startswith("--")]
    return "\n".join(lines).format(charges=charges).split(";\n")


def _type(column: Column) -> str:
    own = _TYPES[column.kind] if column.required else f"Nullable({_TYPES[column.kind]})"
    return f"LowCardinality({own})" if column.kind is Kind.TEXT and column.name not in _VARIED else own


@value
class Snapshot:
    """What counts, at a moment.

    batch: the newest that was committed. merged_to, merged_days: sums up to this batch count only where they are
    merged, and on these days not at all.
    gaps: numbers between these, both exclusive, were given to attempts that failed.
    """

    batch: int
    merged_to: int
    merged_days: tuple[int, ...]
    position: Position
    gaps: tuple[tuple[int, int], ...]

    def live(self) -> str:
        """The condition that a row counts."""
        failed = "".join(f" AND NOT (batch > {after} AND batch < {batch})" for after, batch in self.gaps)
        return f"(batch <= {self.batch}{failed})"

    def live_slots(self) -> str:
        """The same for a row of sums."""
        return f"({self.live()} AND NOT {self.superseded()})"

    def superseded(self) -> str:
        """The condition that a row of sums is also in a later one."""
        days = f"has({list(self.merged_days)}, intDiv(slot_ms, {DAY_MS}) * {DAY_MS})" if self.merged_days else "false"
        return f"(batch <= {self.merged_to} AND (NOT merged OR {days}))"


@value
class Query:
    """SQL and its parameters."""

    text: str
    parameters: dict[str, Any]


def query_of(ask: SpendAsk, at: Snapshot, *, of_calls: bool) -> Query:
    """An ask about spend or calls.

    Raises:
        InvalidInput: a dimension is not known.
    """
    dimensions = CALL_DIMENSIONS if of_calls else CHARGE_DIMENSIONS
    named = [*ask.group_by, *(f.dimension for f in ask.filters)]
    for name in named:
        check_dimension(name, dimensions)
    read = stretches(ask.interval, ask.bucket, ask.zone, summed=not set(UNSUMMED).intersection(named))
    parameters: dict[str, Any] = {"units": [(s.span_ms, s.start_ms, s.end_ms, s.bucket_ms) for s in read]}
    groups = "".join(f"{_column(name, dimensions, of_calls)} AS g{n}, " for n, name in enumerate(ask.group_by))
    where = _where(ask.filters, [_column(f.dimension, dimensions, of_calls) for f in ask.filters], parameters)
    text = sql("calls" if of_calls else "spend").format(
        groups=groups,
        keys="".join(f"{name}, " for name in dict.fromkeys(_source(n, dimensions, of_calls) for n in named)),
        bucket="bucket_ms" if ask.bucket else "CAST(NULL, 'Nullable(Int64)')",
        sums=_bounds(read, SPANS_MS, "slot_ms"),
        records=_bounds(read, (RECORDS,), "at_ms" if of_calls else "`ChargePeriodStart`"),
        where=where,
        live=at.live(),
        live_slots=at.live_slots(),
    )
    return Query(text, parameters)


def _bounds(read: Sequence[Stretch], spans: Sequence[int], time: str) -> str:
    """The condition on what is read of sums, or of records."""
    parts = []
    for span_ms in spans:
        for reach in reaches(read, span_ms):
            first, last = (str(ms) for ms in (reach.start_ms, reach.end_ms))
            if time.startswith("`"):
                first, last = (f"fromUnixTimestamp64Milli({ms}, 'UTC')" for ms in (first, last))
            parts.append(f"{f'span_ms = {span_ms} AND ' if span_ms else ''}{time} >= {first} AND {time} < {last}")
    return f"({' OR '.join(parts) or 'false'})"


def conditions_on_calls(filters: Sequence[Filter], parameters: dict[str, Any]) -> str:
    """Filters on single calls; their values go to the parameters.

    Raises:
        InvalidInput: a dimension is not known.
    """
    columns = []
    for wanted in filters:
        check_dimension(wanted.dimension, CALL_DIMENSIONS)
        column = _CALL_COLUMNS.get(wanted.dimension)
        columns.append(f"toString({column})" if column else _key("scopes", wanted.dimension))
    return _where(filters, columns, parameters)


def past_calls_query(ask: PastCallsAsk, at: Snapshot) -> Query:
    """A page of past calls.

    Raises:
        InvalidInput: what may be no type of scope.
    """
    key, where = "CAST(NULL, 'Nullable(String)')", "true"
    parameters: dict[str, Any] = {"start_ms": ask.interval.start_ms, "end_ms": ask.interval.end_ms, "count": ask.limit}
    parameters |= dict(zip(("after_ms", "after"), ask.after or (-1, ""), strict=True))
    if ask.scope_type is not None:
        check_dimension(ask.scope_type, ())
        name = ask.scope_type
        key = f"toString({name})" if name in ("agent", "team") else _key("scopes", name)
        where = f"{key} IS NOT NULL"
    if ask.scope_key is not None:
        where, parameters["key"] = f"{key} = {{key:String}}", ask.scope_key
    return Query(sql("past_calls").format(key=key, where=where, live=at.live()), parameters)


def conditions_on_charges(filters: Sequence[Filter], parameters: dict[str, Any]) -> str:
    """Filters on single cost records; their values go to the parameters.

    Raises:
        InvalidInput: a dimension is not known.
    """
    columns = []
    for wanted in filters:
        check_dimension(wanted.dimension, CHARGE_DIMENSIONS)
        name, column = wanted.dimension, CHARGE_COLUMN_OF.get(wanted.dimension)
        columns.append(f"toString({column})" if column else f"JSONExtract(Tags, '{name}', 'Nullable(String)')")
    return _where(filters, columns, parameters)


def _where(filters: Sequence[Filter], columns: Sequence[str], parameters: dict[str, Any]) -> str:
    where = ["true"]
    for n, (wanted, column) in enumerate(zip(filters, columns, strict=True)):
        parameters[f"f{n}"] = [v for v in wanted.values if v is not None]
        some = f"ifNull(has({{f{n}:Array(String)}}, {column}), false)"
        where.append(f"({some} OR {column} IS NULL)" if None in wanted.values else some)
    return " AND ".join(where)


def _source(name: str, dimensions: Sequence[str], of_calls: bool) -> str:
    """The column that `_column` reads."""
    if name in dimensions:
        return name
    if name not in UNSUMMED:
        return "path"
    return "scopes" if of_calls else "tags"


def _column(name: str, dimensions: Sequence[str], of_calls: bool) -> str:
    if name in dimensions:
        return f"toString({name})"
    if name not in UNSUMMED:
        return _key("splitByChar('\\n', toString(path))", name)
    return _key("scopes", name) if of_calls else f"JSONExtract(tags, '{name}', 'Nullable(String)')"


def _key(scopes: str, scope_type: str) -> str:
    """The first key of a type in a chain, or null. The type is checked: it can't end the text."""
    first = f"arrayFirstOrNull(s -> startsWith(s, '{scope_type}:'), {scopes})"
    return f"substring({first}, {len(scope_type) + 2})"
