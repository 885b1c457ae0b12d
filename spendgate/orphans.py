"""No orphans: a child stops when its supervisor dies, however it dies."""

import os
import signal
import threading


def stop_with_parent(parent_fd: int) -> None:
    """Send this process SIGTERM when the other end of the pipe `parent_fd` closes, as it does on a kill -9."""

    def watch() -> None:
        while os.read(parent_fd, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
