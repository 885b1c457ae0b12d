"""What the machine lacks is said at the end of the run, loudly: a skipped test has tested nothing."""

from collections import defaultdict

import pytest
from hypothesis import settings

from tests.support.needs import NOT_TESTED

# How long an example takes is the machine's affair.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that were skipped for want of a program, by reason."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        # (file, line, "Skipped: reason")
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if reason.startswith(NOT_TESTED):
            lacking[reason.removeprefix(NOT_TESTED)].append(report.nodeid)
    if not lacking:
        return
    terminalreporter.section("NOT TESTED ON THIS MACHINE", sep="!", red=True, bold=True)
    for reason, tests in lacking.items():
        terminalreporter.write_line(f"{reason}: {len(tests)} tests", red=True)
        for test in tests:
            terminalreporter.write_line(f"    {test}")
