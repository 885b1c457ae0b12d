"""Waiting for a server that was started."""

import socket
import subprocess
import time

_PATIENCE_S = 120.0
_LOOK_EVERY_S = 0.1


def until_open(process: subprocess.Popen[bytes], address: str, log: str = "") -> None:
    """Return when it accepts connections.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """
    host, port = address.split(":")
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"{process.args!r} is not ready {log}")
        time.sleep(_LOOK_EVERY_S)
