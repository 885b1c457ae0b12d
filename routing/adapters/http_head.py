"""Where requests go, and how they begin. All of a request's head that is the same for many calls is made once."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from core.errors import ConfigError
from routing.errors import FailureKind, UpstreamError

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: No CR, LF or NUL: a value can't end its line.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(r"/[!-~]*")
_PORTS = {"http": 80, "https": 443}


class Origin:
    """A base URL, taken apart and checked once.

    host, port, tls: where to connect. path: what comes before every request's own path.

    Raises:
        ConfigError: it is no http or https URL that a request can be made from.
    """

    def __init__(self, base_url: str) -> None:
        try:
            parts = urlsplit(base_url)
            port, host = parts.port, (parts.hostname or "").encode("idna").decode("ascii")
        except ValueError:
            raise ConfigError("an endpoint's base_url is no URL") from None
        path = parts.path.rstrip("/")
        plain = parts.username is None and not parts.query and not parts.fragment
        if parts.scheme not in _PORTS or not host or not plain or not _TARGET.fullmatch(path or "/"):
            raise ConfigError("an endpoint's base_url must be http(s)://host[:port][/path] and nothing more")
        self.host = host
        self.port = _PORTS[parts.scheme] if port is None else port
        self.tls = parts.scheme == "https"
        self.path = path
        shown = f"[{host}]" if ":" in host else host
        self._host_header = shown if self.port == _PORTS[parts.scheme] else f"{shown}:{self.port}"

    def head(self, path: str, headers: Mapping[str, str], *, streaming: bool) -> bytes:
        """The beginning of a POST, to which more header lines can be added.

        Compression is never asked for: it would hold events back, and costs both sides more than it saves.

        Raises:
            UpstreamError: NOT_SENT, a header or the path can't be sent.
        """
        target = self.path + path
        if not _TARGET.fullmatch(target):
            raise UpstreamError(FailureKind.NOT_SENT, "the model's path has characters that can't be sent")
        first = f"POST {target} HTTP/1.1\r\n".encode("ascii")
        always = {
            "Host": self._host_header,
            "User-Agent": "spendgate",
            "Accept": "text/event-stream" if streaming else "application/json",
            "Accept-Encoding": "identity",
        }
        return first + header_lines(always | dict(headers))


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they go out.

    Raises:
        UpstreamError: NOT_SENT, for a name or value that would not stay in its line; its text is not repeated.
    """
    lines = []
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise UpstreamError(FailureKind.NOT_SENT, f"the header {name!r:.40} can't be sent as it is")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")
