"""Tables on a terminal. Names of agents and models are free text: nothing in a cell is taken for markup."""

import sys

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """As wide as the terminal; wide enough where there is none."""
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)


def table_of(texts: list[str], numbers: list[str]) -> Table:
    """An empty table: columns of text, then of numbers, which are never cut."""
    table = Table(box=None, pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
