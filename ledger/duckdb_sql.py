"""The SQL of the DuckDB engine: its files, and the parts that depend on what is asked."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from core.errors import InvalidInput
from core.values import value
from ledger.columns import CHARGE_COLUMNS, Kind
from ledger.ports import CALL_DIMENSIONS, CHARGE_DIMENSIONS, Filter, PastCallsAsk, SpendAsk
from ledger.spans import RECORDS, SPANS_MS, Stretch, reaches, stretches

_SCOPE_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TYPES = {
    Kind.TEXT: "VARCHAR",
    Kind.JSON: "VARCHAR",
    Kind.TIME: "TIMESTAMP_MS",
    Kind.MONEY: "DECIMAL(38, 12)",
    Kind.UNIT_PRICE: "DECIMAL(38, 18)",
    Kind.QUANTITY: "DECIMAL(38, 12)",
    Kind.WHOLE: "BIGINT",
}


@cache
def sql(name: str) -> str:
    """A file of `ledger/sql/duckdb`, by its name without suffix."""
    return files("ledger").joinpath("sql", "duckdb", f"{name}.sql").read_text()


#: Cost records are kept in three tables: what all records of a chain of scopes share, what all of a SKU, seller, month
#: and so on share, and the rest, of which each record has a row. `charges` is a view of all three.
CHAIN_COLUMNS = (
    *("BillingAccountId", "SubAccountId", "SubAccountName", "SubAccountType", "ResourceId", "ResourceName"),
    *("ResourceType", "Tags", "x_ScopePath", "x_AgentId", "x_PrincipalId"),
)
_ROW_COLUMNS = {
    "BilledCost": "cost",
    "EffectiveCost": "cost",
    "ListCost": "cost",
    "ContractedCost": "cost",
    "ChargePeriodStart": "make_timestamp_ms(start_ms)::TIMESTAMP_MS",
    "ChargePeriodEnd": "make_timestamp_ms(end_ms)::TIMESTAMP_MS",
    "PricingQuantity": "quantity",
    "ConsumedQuantity": "quantity",
    "ListUnitPrice": "unit_price",
    "ContractedUnitPrice": "unit_price",
    "x_RoundingCost": "rounding",
    "x_SourceRecordId": "identity || ':' || number",
    "x_RequestId": "request_id",
    "x_AttemptId": "hold_id",
    "x_HoldId": "hold_id",
    "x_RecordedAt": "make_timestamp_ms(recorded_ms)::TIMESTAMP_MS",
}


def template_columns(*, of_chains: bool) -> dict[str, str]:
    """Name and type of the columns that many records share: of chains of scopes, or the others."""
    return {
        c.name: _TYPES[c.kind]
        for c in CHARGE_COLUMNS
        if (c.name in CHAIN_COLUMNS) == of_chains and c.name not in _ROW_COLUMNS
    }


def schema() -> str:
    """All tables, and the view of whole cost records."""
    kinds, chains = (
        ", ".join(f'"{name}" {kind}' for name, kind in template_columns(of_chains=of_chains).items())
        for of_chains in (False, True)
    )
    columns = _charge_columns(c.name for c in CHARGE_COLUMNS)
    return sql("schema").format(kinds=kinds, chains=chains, columns=columns)


def _charge_columns(names: Iterable[str]) -> str:
    """Columns of cost records from the three tables that they are kept in."""
    return ", ".join(f'{_ROW_COLUMNS.get(name) or _shared(name)} AS "{name}"' for name in names)


def _shared(name: str) -> str:
    return f'{"chain" if name in CHAIN_COLUMNS else "kind"}."{name}"'


@value
class Query:
    """SQL and its parameters."""

    text: str
    parameters: dict[str, Any]


def query_of(ask: SpendAsk, *, of_calls: bool, unsummed: Iterable[str]) -> Query:
    """An ask about spend or calls.

    ask: its interval is not much longer than what is known. unsummed: types of scopes that no sums are kept of; asks by
    these go to the records themselves.

    Raises:
        InvalidInput: a dimension is not known.
    """
    dimensions = CALL_DIMENSIONS if of_calls else CHARGE_DIMENSIONS
    named = list(dict.fromkeys([*ask.group_by, *(f.dimension for f in ask.filters)]))
    for name in named:
        check_dimension(name, dimensions)
    single = set(unsummed)
    read = stretches(ask.interval, ask.bucket, ask.zone, summed=not single.intersection(named))
    parameters: dict[str, Any] = {
        "spans": [s.span_ms for s in read],
        "starts": [s.start_ms for s in read],
        "ends": [s.end_ms for s in read],
        "buckets": [s.bucket_ms for s in read],
    }
    # k<n>: what is named n-th; p<n>: its table of keys, if it is a type of scope that sums are kept of.
    in_path = [n for n, name in enumerate(named) if name not in dimensions and name not in single]
    inner = {f"k{n}": _inner(name, dimensions, of_calls) for n, name in enumerate(named) if n not in in_path}
    if in_path:
        inner["path"] = "path"
    at = {name: f"p{n}.key" if n in in_path else f"k{n}" for n, name in enumerate(named)}
    where = ["true"]
    for n, condition in enumerate(ask.filters):
        where.append(_one_of(n, at[condition.dimension], condition))
        parameters[f"f{n}"] = [v for v in condition.values if v is not None]
    text = sql("calls" if of_calls else "spend").format(
        sums=_read("call_slots" if of_calls else "spend_slots", "slot_ms", read, SPANS_MS),
        records=_read(*(("calls", "at_ms") if of_calls else ("charge_rows", "start_ms")), read, ()),
        columns="".join(f"{column} AS {name}, " for name, column in inner.items()),
        keys="".join(f"{name}, " for name in inner),
        joins=" ".join(
            f"LEFT JOIN paths AS p{n} ON p{n}.path = summed.path AND p{n}.type = '{named[n]}'" for n in in_path
        ),
        groups="".join(f"{at[name]} AS g{n}, " for n, name in enumerate(ask.group_by)),
        bucket="bucket_ms" if ask.bucket else "NULL::BIGINT",
        where=" AND ".join(where),
    )
    return Query(text, parameters)


def _inner(name: str, dimensions: Sequence[str], of_calls: bool) -> str:
    return f"{name}::VARCHAR" if name in dimensions else _single(name, of_calls)


def _read(table: str, time: str, read: Sequence[Stretch], spans: Sequence[int]) -> str:
    """Where it is read, each part by bounds of its own, which tell what of the table can be left aside."""
    parts = [(f"span_ms = {span_ms} AND ", reach) for span_ms in spans for reach in reaches(read, span_ms)]
    parts = parts if spans else [("", reach) for reach in reaches(read, RECORDS)]
    if not parts:
        return f"SELECT * FROM {table} WHERE false"
    return " UNION ALL ".join(
        f"SELECT * FROM {table} WHERE {span}{time} >= {reach.start_ms} AND {time} < {reach.end_ms}"
        for span, reach in parts
    )


def conditions_on_calls(filters: Sequence[Filter]) -> tuple[str, dict[str, Any]]:
    """Filters on single calls, and their parameters.

    Raises:
        InvalidInput: a dimension is not known.
    """
    where, parameters = ["true"], {}
    for n, wanted in enumerate(filters):
        check_dimension(wanted.dimension, CALL_DIMENSIONS)
        column = _CALL_COLUMNS.get(wanted.dimension) or _single(wanted.dimension, of_calls=True)
        where.append(_one_of(n, f"{column}::VARCHAR", wanted))
        parameters[f"f{n}"] = [v for v in wanted.values if v is not None]
    return " AND ".join(where), parameters


def past_calls(ask: PastCallsAsk) -> tuple[str, dict[str, Any]]:
    """A page of past calls: the query and its parameters.

    Raises:
        InvalidInput: what may be no type of scope.
    """
    key, where = "NULL::VARCHAR", "true"
    parameters: dict[str, Any] = {"start_ms": ask.interval.start_ms, "end_ms": ask.interval.end_ms, "count": ask.limit}
    parameters |= dict(zip(("after_ms", "after"), ask.after or (-1, ""), strict=True))
    if ask.scope_type is not None:
        check_dimension(ask.scope_type, ())
        key = ask.scope_type if ask.scope_type in ("agent", "team") else _single(ask.scope_type, of_calls=True)
        where = f"{key} IS NOT NULL"
    if ask.scope_key is not None:
        where, parameters["key"] = f"{key} = $key", ask.scope_key
    return sql("past_calls").format(key=key, where=where), parameters


_AT = {"ChargePeriodStart": "start_ms", "x_RecordedAt": "recorded_ms"}
_JOINS = "JOIN charge_kinds AS kind ON kind.id = record.kind JOIN charge_chains AS chain ON chain.id = record.chain"


@value
class ChargeQueries:
    """How to read cost records in pages: `charge_counts.sql` and `charges.sql`, and the parameters of the filters."""

    counts: str
    page: str
    parameters: dict[str, Any]


def charge_queries(filters: Sequence[Filter], columns: Sequence[str], by: str) -> ChargeQueries:
    """The queries for these columns, in the order of `by`.

    Raises:
        InvalidInput: a dimension is not known.
    """
    where, parameters = ["true"], {}
    for n, wanted in enumerate(filters):
        check_dimension(wanted.dimension, CHARGE_DIMENSIONS)
        name = CHARGE_COLUMN_OF.get(wanted.dimension)
        column = f'"{name}"' if name else f'json_extract_string("Tags", \'$."{wanted.dimension}"\')'
        where.append(_one_of(n, f"{column}::VARCHAR", wanted))
        parameters[f"f{n}"] = [v for v in wanted.values if v is not None]
    parts = {"at": _AT[by], "joins": _JOINS if filters else "", "where": " AND ".join(where)}
    page = sql("charges").format(columns=_charge_columns(columns), **parts)
    return ChargeQueries(sql("charge_counts").format(**parts), page, parameters)


#: The column of cost records that is a dimension.
CHARGE_COLUMN_OF = {
    "provider": "ServiceProviderName",
    "service": "ServiceName",
    "category": "ServiceCategory",
    "meter": "SkuMeter",
    "model": "x_ModelServed",
    "model_requested": "x_ModelRequested",
    "basis": "x_CostBasis",
    "source": "x_CostSource",
}
_CALL_COLUMNS = {name: name for name in CALL_DIMENSIONS} | {"model": "model_served", "agent": "agent", "team": "team"}


def check_dimension(name: str, dimensions: Sequence[str]) -> None:
    """A dimension, or what may be a type of scope.

    Raises:
        InvalidInput: it is neither.
    """
    if name not in dimensions and not _SCOPE_TYPE.fullmatch(name):
        raise InvalidInput("groupBy", f"must be one of {', '.join(dimensions)} or a type of scope, not {name!r}")


def _one_of(n: int, column: str, wanted: Filter) -> str:
    some = f"list_contains($f{n}::VARCHAR[], {column})"
    return f"({some} OR {column} IS NULL)" if None in wanted.values else some


def _single(scope_type: str, of_calls: bool) -> str:
    if of_calls:
        return f"list_extract(list_filter(scopes, s -> starts_with(s, '{scope_type}:')), 1)[{len(scope_type) + 2}:]"
    return f"json_extract_string(tags, '$.\"{scope_type}\"')"
