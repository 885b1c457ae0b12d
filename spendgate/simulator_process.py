"""The simulated Databricks as a child of `spendgate serve`."""

import argparse
import sys
from pathlib import Path

from core.errors import ConfigError
from simulator.serve import run
from simulator.settings import parse_settings
from spendgate.orphans import stop_with_parent


def main() -> int:
    """Serve on a free loopback port, which is written to ``--ready-fd``."""
    parser = argparse.ArgumentParser(prog="spendgate simulator")
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    parser.add_argument("--bill-path", type=Path, required=True)
    arguments = parser.parse_args()
    stop_with_parent(arguments.parent_fd)
    sys.stdout = sys.stderr  # the supervisor's banner is all that belongs on stdout
    try:
        settings = parse_settings({"bill_path": str(arguments.bill_path)})
        run("127.0.0.1", 0, settings, ready_fd=arguments.ready_fd)
    except ConfigError as error:
        print(f"spendgate: {error.message}", file=sys.stderr)
        return 78
    return 0


if __name__ == "__main__":
    sys.exit(main())
