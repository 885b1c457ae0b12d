"""Bodies that come compressed although nobody asked for it, decompressed piece by piece within a limit."""

import zlib

from routing.adapters.http_types import broken

#: Window bits for zlib: with gzip's header, with zlib's, and with none.
_GZIP, _ZLIB, _BARE = 31, 15, -15


class Inflater:
    """Decompresses one body.

    encoding: what Content-Encoding says. ended: the body may end here.

    Raises:
        UpstreamError: BROKEN, an encoding that is not known here.
    """

    def __init__(self, encoding: bytes) -> None:
        if encoding not in (b"gzip", b"x-gzip", b"deflate"):
            raise broken(f"the answer has an encoding that was not asked for ({encoding[:40].decode('latin-1')})")
        self._gzip = encoding != b"deflate"
        self._stream = zlib.decompressobj(_GZIP) if self._gzip else None
        self.ended = True

    def feed(self, piece: bytes, limit: int) -> bytes | None:
        """What a piece becomes; None if that is more than `limit` bytes.

        Raises:
            UpstreamError: BROKEN, it is not compressed as it should be.
        """
        out, left = [], limit
        while piece:
            if self._stream is None:  # many servers send "deflate" without zlib's header
                self._stream = zlib.decompressobj(_ZLIB if piece[0] & 0x0F == 8 else _BARE)
            elif self._stream.eof:
                if not self._gzip:
                    raise broken("the answer goes on after its compressed end")
                self._stream = zlib.decompressobj(_GZIP)  # gzip files may follow one another
            try:
                out.append(self._stream.decompress(piece, left + 1))
            except zlib.error:
                raise broken("the answer is not compressed as it says") from None
            left -= len(out[-1])
            if left < 0:
                return None
            piece = self._stream.unused_data
        self.ended = self._stream is None or self._stream.eof
        return b"".join(out)
