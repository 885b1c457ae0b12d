"""Commands to the store of which most words are the same from call to call: packed once, filled in each time."""

from collections.abc import Sequence

import hiredis

Word = str | bytes | int

#: What comes before a word of that many bytes: to write them anew costs as much as all the rest.
_LENGTHS = [b"$%d\r\n" % size for size in range(1024)]


def packed(*words: Word) -> bytes:
    """A command as it is sent (RESP)."""
    return hiredis.pack_command(words)  # type: ignore[arg-type, no-any-return] # it knows one length


def unpacked(command: bytes) -> list[bytes]:
    """The words of a command that was packed."""
    reader = hiredis.Reader()
    reader.feed(command)
    words: list[bytes] = reader.gets()
    return words


class Frame:
    """A command with some words left out (None)."""

    __slots__ = ("_pieces",)

    def __init__(self, words: Sequence[Word | None]) -> None:
        fixed = b"*%d\r\n" % len(words)
        self._pieces: list[bytes] = []  # what is fixed, then a length and a word that are filled in, and so on
        for word in words:
            if word is None:
                self._pieces += (fixed, b"", b"")
                fixed = b"\r\n"
            else:
                text = word if isinstance(word, bytes) else str(word).encode()
                fixed += b"$%d\r\n%b\r\n" % (len(text), text)
        self._pieces.append(fixed)

    def fill(self, *words: bytes) -> bytes:
        """The command with these words in the places that were left out, in their order."""
        pieces, place = self._pieces.copy(), 1
        for word in words:
            size = len(word)
            pieces[place] = _LENGTHS[size] if size < len(_LENGTHS) else b"$%d\r\n" % size
            pieces[place + 1] = word
            place += 3
        return b"".join(pieces)
