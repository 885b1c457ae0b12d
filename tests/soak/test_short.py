"""A short soak, so that the long one keeps working."""

from tests.soak.run import soak


def test_fifteen_seconds_of_everything():
    soak(15, seed=7)


def test_fifteen_seconds_of_what_keeps_the_ledger_in_clickhouse():
    """The store, the ledger's process and its server are killed; the books are the bill, to the nano-dollar."""
    soak(15, 7, kinds=("ledger", "kill", "server"), in_clickhouse=True)
