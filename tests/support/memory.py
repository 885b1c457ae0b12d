"""How much memory a worker takes, as Linux counts it."""

from pathlib import Path

from tests.support.gateway import RunningGateway

MB = 1024 * 1024


class Memory:
    """The most memory of a worker since this was made."""

    def __init__(self, gateway: RunningGateway) -> None:
        (pid,) = gateway.worker_pids()
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak starts again from here
        self._before = self._read("VmRSS")

    def grown_bytes(self) -> int:
        """The peak since then, less what there was."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
