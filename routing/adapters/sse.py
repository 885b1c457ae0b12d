"""Server-sent events, as model providers send them: from pieces of a body to the payloads of its events.

Lines end in LF or CRLF; a lone CR, which the standard also allows and no provider sends, ends none.
Standard: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

#: The payload that ends a stream in OpenAI's shape.
DONE = b"[DONE]"


class EventTooLarge(Exception):
    """An event is larger than may be buffered."""


def whole_events(piece: bytes) -> list[bytes] | None:
    """The payloads of a piece of nothing but whole events of one ``data:`` line each, which is what providers send.

    None: it may be something else, for the decoder to see.
    """
    if not piece.startswith(b"data: ") or not piece.endswith(b"\n\n") or b"\r" in piece:
        return None
    payloads = piece[6:-2].split(b"\n\ndata: ")
    # As many lines as these events have: none of them holds a line of another kind.
    return payloads if piece.count(b"\n") == 2 * len(payloads) else None


class EventDecoder:
    """Collects pieces of a body and gives out payloads as soon as their event is complete.

    max_bytes: of one event; nothing beyond that is ever kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads of the events that this piece completes; an event without ``data:`` has none.

        Raises:
            EventTooLarge: an event is over `max_bytes`.
        """
        if not self._rest and not self._data:
            payloads = whole_events(piece)
            if payloads is not None:
                return payloads
        searched = len(self._rest)
        self._rest += piece
        payloads = []
        start = 0
        while (end := self._rest.find(b"\n", max(start, searched))) >= 0:
            payload = self._take_line(bytes(self._rest[start:end]))
            if payload is not None:
                payloads.append(payload)
            start = end + 1
        del self._rest[:start]
        if self._data_bytes + len(self._rest) > self._max_bytes:
            raise EventTooLarge
        return payloads

    def finish(self) -> bytes | None:
        """The payload that the end of the body leaves without its blank line. It may be cut off."""
        line, self._rest = bytes(self._rest), bytearray()
        return self._take_line(line) or self._take_line(b"")

    def _take_line(self, line: bytes) -> bytes | None:
        line = line.removesuffix(b"\r")
        if not line:
            payload = b"\n".join(self._data) if self._data else None
            self._data, self._data_bytes = [], 0
            return payload
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value)
        return None
