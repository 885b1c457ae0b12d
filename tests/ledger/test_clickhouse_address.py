"""URLs of a ledger in ClickHouse."""

import pytest

from core.errors import ConfigError
from ledger.clickhouse_connection import Address, address_of


def test_everything_may_be_named() -> None:
    found = address_of("clickhouses://ann:p%40ss%2F@db.example:9443/books?ca_cert=/etc/ca.pem")
    assert found == Address("db.example", 9443, True, "ann", "p@ss/", "books", {"ca_cert": "/etc/ca.pem"})
    assert found.shown == "db.example:9443/books"


def test_what_is_left_out_is_as_usual() -> None:
    assert address_of("clickhouse://db/books") == Address("db", 8123, False, "default", "", "books", {})
    assert address_of("clickhouses://db/books").port == 8443


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://ann:s3cret@db",
        "clickhouse://ann:s3cret@/books",
        "clickhouse://ann:s3cret@db:port/books",
        "clickhouse://ann:s3cret@db/books/more",
        "clickhouse://ann:s3cret@db/books?ca_cert=/etc/ca.pem",
        "clickhouses://ann:s3cret@db/books?verify=no",
        "mysql://ann:s3cret@db/books",
    ],
)
def test_what_is_wrong_is_told_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as told:
        address_of(url)
    assert "s3cret" not in told.value.message
