"""The head of a request on a hot route: what it says, and how one that comes again is known without reading it.

A client sends the same head with every request of a connection, but for the length of the body. A connection therefore
keeps the bytes of the last head that the parser took, and what was read from them. Later bytes are known by them if

- they begin a request (nothing of another is before them) and hold it as a whole, to the last byte of its body;
- they are the same, byte for byte, but for the digits of Content-Length, which say just how long the rest is.

A parser could read them in no other way, so it is not asked. Everything else goes through it.
"""

from core.keys import ApiKey
from core.scope import Chain
from gateway.http import Headers
from gateway.surfaces import Surface

_END = b"\r\n\r\n"
#: As clients write it. Another spelling is right too, and is parsed every time.
_LENGTH_LINES = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_MAX_HEAD_BYTES = 4096
_MAX_DIGITS = 8


class RequestHead:
    """What the head of a request says.

    pairs: its headers, names in lower case. headers: the known ones of them; None: not read yet.
    payer: (changes of the keys, key, chain) as they were found for this head; None: not yet, or not by it alone.
    """

    __slots__ = ("headers", "pairs", "path", "payer", "surface")

    def __init__(self, surface: Surface, path: str, pairs: list[tuple[bytes, bytes]]) -> None:
        self.surface = surface
        self.path = path
        self.pairs = pairs
        self.headers: Headers | None = None
        self.payer: tuple[int, ApiKey, Chain] | None = None


class KnownHead:
    """The bytes of a head, around the digits of Content-Length, and what they say."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, before: bytes, after: bytes, head: RequestHead) -> None:
        self._before = before
        self._after = after
        self.head = head

    def body(self, data: bytes) -> bytes | None:
        """The body of a request that is all of `data` and has this head; None: it is not."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + _MAX_DIGITS + 1)
        if end < 0 or not data.startswith(after, end):
            return None
        digits, at = data[start:end], end + len(after)
        return data[at:] if digits.isdigit() and int(digits) == len(data) - at else None


def known_head(data: bytes, head: RequestHead) -> KnownHead | None:
    """The head at the beginning of `data`, by which the next can be known; None if it is not one of those.

    head: what the parser has read from it, for a request that was all of `data` and leaves the connection open.
    """
    end = data.find(_END, 0, _MAX_HEAD_BYTES)
    for line in _LENGTH_LINES:
        start = data.find(line, 0, end)
        if start >= 0:
            start += len(line)
            after = data[data.find(b"\r", start) : end + len(_END)]
            known = KnownHead(data[:start], after, head)
            return known if known.body(data) is not None else None
    return None
