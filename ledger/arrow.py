"""Columns of Python values in Arrow's memory layout, which DuckDB reads in place.

Ten times as fast as text that it would have to parse, and exact: whole numbers stay whole numbers.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import nanoarrow
from nanoarrow.c_array import CArray

#: By DuckDB's names.
_TYPES = {
    "VARCHAR": nanoarrow.string(),
    "BIGINT": nanoarrow.int64(),
    "INTEGER": nanoarrow.int32(),
    "BOOLEAN": nanoarrow.bool_(),
    "VARCHAR[]": nanoarrow.list_(nanoarrow.string()),
}


def table(types: Mapping[str, str], columns: Sequence[Sequence[Any]]) -> nanoarrow.Array:
    """A table, for `DuckDBPyConnection.register`. types: DuckDB's, by the names of the columns.

    Raises:
        ValueError: a value is not of its column's type.
    """
    arrays = [_array(name, types[name], values) for name, values in zip(types, columns, strict=True)]
    schema = nanoarrow.struct({name: _TYPES[kind] for name, kind in types.items()})
    return nanoarrow.Array(nanoarrow.c_array_from_buffers(schema, len(columns[0]), [None], children=arrays))


def _array(name: str, kind: str, values: Sequence[Any]) -> CArray:
    try:
        if kind == "VARCHAR[]":
            ends = nanoarrow.c_array(list(accumulate(map(len, values), initial=0)), nanoarrow.int32())
            items = nanoarrow.c_array(list(chain.from_iterable(values)), nanoarrow.string())
            buffers = [None, ends.view().buffer(1)]
            return nanoarrow.c_array_from_buffers(_TYPES[kind], len(values), buffers, children=[items])
        return nanoarrow.c_array(values, _TYPES[kind])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} can't be {kind}: {error.__cause__ or error}") from error
