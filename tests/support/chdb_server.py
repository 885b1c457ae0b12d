"""ClickHouse's HTTP interface on chDB, in a process of its own, for tests: what clickhouse-connect needs of it.

``python -m tests.support.chdb_server <folder> [port]`` prints its port and serves until it is killed.
One statement at a time. With a password (environment CHDB_PASSWORD) every request must carry it; with a certificate
(CHDB_CERTIFICATE, its key in the same file) it speaks TLS.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

#: In a query string these are no settings.
_TRANSPORT = {"query", "database", "wait_end_of_query", "query_id", "session_id", "enable_http_compression"} | {
    *("send_progress_in_http_headers", "http_headers_progress_interval_ms", "client_protocol_version", "role"),
}
_NAME = re.compile(r"\w+")


class _Database:
    """A chDB session, for one statement at a time."""

    def __init__(self, folder: str) -> None:
        from chdb.session import Session

        self._session = Session(folder)
        self._lock = threading.Lock()
        self._set: dict[str, str] = {}
        self._database = "default"

    def execute(self, given: dict[str, str], statement: bytes) -> tuple[bytes, dict[str, str]]:
        """The answer to a statement, and what it did."""
        with self._lock:
            database = given.get("database", self._database)
            if database != self._database:
                self._session.query(f"USE `{database.replace('`', '')}`")
                self._database = database
            self._apply({name: text for name, text in given.items() if _is_setting(name)})
            parameters = {name[6:]: text for name, text in given.items() if name.startswith("param_")}
            result = self._session.query(statement.decode(), "TabSeparated", params=parameters or None)
            summary = {"read_rows": str(result.rows_read()), "written_rows": "0", "result_rows": "0"}
            return result.bytes() or b"", summary

    def _apply(self, settings: dict[str, str]) -> None:
        for name in self._set.keys() - settings.keys():
            self._session.query(f"SET {name} = DEFAULT")
        for name, text in settings.items():
            if self._set.get(name) != text and _NAME.fullmatch(name):
                quoted = text.replace("\\", "\\\\").replace("'", "\\'")
                self._session.query(f"SET {name} = '{quoted}'")
        self._set = settings


def _is_setting(name: str) -> bool:
    return name not in _TRANSPORT and not name.startswith("param_")


def _handler(database: _Database, password: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            given = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content_type = self.headers.get("Content-Type", "")
            if content_type.startswith("multipart/form-data"):
                given |= _form(content_type, body)
                body = b""
            if password and not self._is_known(password):
                self._answer(403, b"Code: 516. DB::Exception: Authentication failed.", {_EXCEPTION: "516"})
                return
            try:
                answer, summary = database.execute(given, _joined(given.pop("query", "").encode(), body))
            except Exception as error:  # the client is to see what the server would tell
                text = str(error)
                code = re.search(r"Code: (\d+)", text)
                self._answer(500, text.encode(), {_EXCEPTION: code[1] if code else "1000"})
                return
            self._answer(200, answer, {"X-ClickHouse-Summary": json.dumps(summary)})

        do_GET = do_POST

        def _is_known(self, password: str) -> bool:
            scheme, _, text = self.headers.get("Authorization", "").partition(" ")
            return scheme == "Basic" and base64.b64decode(text).decode() == f"default:{password}"

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-ClickHouse-Timezone", "UTC")
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has gone
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test reads the client's side."""

    return Handler


_EXCEPTION = "X-ClickHouse-Exception-Code"


def _joined(query: bytes, body: bytes) -> bytes:
    return query + b"\n" + body if query and body else query or body


def _form(content_type: str, body: bytes) -> dict[str, str]:
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    found = {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        found[str(name)] = part.get_payload(decode=True).decode()  # type: ignore[union-attr]
    return found


@dataclass(frozen=True)
class ChdbServer:
    """A running server."""

    port: int
    password: str = ""

    @contextlib.contextmanager
    def database(self, name: str = "") -> Iterator[str]:
        """A new database; its URL. It is dropped at the end."""
        name = name or f"ledger_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        yield f"clickhouse://default:{self.password}@127.0.0.1:{self.port}/{name}"
        self.execute(f"DROP DATABASE {name}")

    def execute(self, statement: str) -> str:
        """The answer to a statement, as tab-separated text."""
        secret = base64.b64encode(f"default:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {secret}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", statement.encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode()).strip()


_numbers = itertools.count()


@contextlib.contextmanager
def chdb_server(
    folder: Path, *, port: int = 0, password: str = "", certificate: Path | None = None
) -> Iterator[ChdbServer]:
    """A running server. It is killed at the end, not stopped."""
    environment = os.environ | {"CHDB_PASSWORD": password, "CHDB_CERTIFICATE": str(certificate or "")}
    command = [sys.executable, "-m", "tests.support.chdb_server", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout
    try:
        yield ChdbServer(int(process.stdout.readline()), password)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    """Serve until killed."""
    folder, port = sys.argv[1], int(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(_Database(folder), os.environ.get("CHDB_PASSWORD", "")))
    server.daemon_threads = True
    if certificate := os.environ.get("CHDB_CERTIFICATE"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
