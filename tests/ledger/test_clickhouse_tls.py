"""TLS to a ClickHouse server: its certificate is checked, and the password does not leave before."""

import subprocess
from pathlib import Path

import pytest

from ledger.clickhouse_store import ClickHouseLedger
from ledger.errors import LedgerUnavailable
from ledger.model import Position
from tests.support.chdb_server import chdb_server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=elsewhere",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path.with_name("key"), "-out", path.with_name("cert")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.with_name("key").read_bytes() + path.with_name("cert").read_bytes())
    return path


def test_only_a_certificate_that_is_vouched_for_will_do(tmp_path: Path, certificate: Path) -> None:
    with chdb_server(tmp_path, password="s3cret", certificate=certificate) as server:
        url = f"clickhouses://default:s3cret@127.0.0.1:{server.port}/default"
        store = ClickHouseLedger(f"{url}?ca_cert={certificate.with_name('cert')}", new_id="ldg_1")
        assert store.position() == Position()
        store.close()
        with pytest.raises(LedgerUnavailable, match="certificate verify failed") as told:
            ClickHouseLedger(url, new_id="ldg_1")
        assert "s3cret" not in told.value.message
        with pytest.raises(LedgerUnavailable):
            ClickHouseLedger(url.replace("clickhouses", "clickhouse"), new_id="ldg_1")
