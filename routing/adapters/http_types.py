"""What an exchange over HTTP is made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from routing.errors import FailureKind, UpstreamError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_EVENT_BYTES = 4 * 1024 * 1024
#: Of an error's body; the rest is not read.
MAX_REFUSAL_BYTES = 64 * 1024
#: All headers of an answer together, with those of interim answers and trailers.
MAX_HEAD_BYTES = 64 * 1024


# Not frozen: one is made for each call, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class HttpRequest:
    """A POST.

    head: request line and headers as bytes, from `HttpClient.head` and `header_lines`; no Content-Length.
    deadline_s: by the running loop's clock; for the whole answer, or for a stream's first event.
    timeout_s: between two events of a stream.
    """

    head: bytes
    content: bytes
    deadline_s: float
    timeout_s: float


class Headers(Mapping[str, str]):
    """An answer's headers, asked for by a name in any case. One that came several times is joined by commas."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[bytes, bytes]) -> None:
        """values: by lower-case name."""
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower().encode()].decode("latin-1")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower().encode() in self._values

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(slots=True)
class Reply:
    """A complete answer of any status. headers: names in any case. body: of a refusal, at most its first 64 KB."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def accepted(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300


def broken(message: str) -> UpstreamError:
    """An answer came and is of no use; the provider has probably charged for it."""
    return UpstreamError(FailureKind.BROKEN, message)
