"""Lines on disk that can be trusted: each begins with the CRC-32 of its text, so that a torn or damaged one shows."""

import zlib


def seal(text: bytes) -> bytes:
    """The line for a text without newlines."""
    return b"%08x %s\n" % (zlib.crc32(text), text)


def unseal(line: bytes) -> bytes | None:
    """The text of a line (with or without its newline); None: it is damaged."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    return text if checksum == b"%08x" % zlib.crc32(text) else None
