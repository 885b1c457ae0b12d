"""The results as a Markdown table that also reads well on a terminal."""

from collections.abc import Sequence

from bench.overspend.experiment import Result

_HEAD = ("variant", "what happens", "gateway", "let through", "bill ÷ cap", "recorded ÷ bill", "largest moment ÷ cap")
_NOT_EXACT = {
    "estimated": "estimated, because the upstream did not say what it used",
    "unconfirmed": "unconfirmed: held in full by calls whose end nobody saw",
}


def table(results: Sequence[Result]) -> str:
    """All rows, then the notes that they refer to."""
    notes: list[str] = []
    rows = [_HEAD, *[_row(result, notes) for result in results]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, "", *[f"[{number}] {note}" for number, note in enumerate(notes, start=1)]])


def _row(result: Result, notes: list[str]) -> tuple[str, ...]:
    variant, ratio = result.variant, result.recorded_to_bill
    return (
        variant.name,
        variant.title,
        result.product,
        f"{result.let_through} of {variant.calls}",
        f"{result.bill_to_cap:.3f}" + (" !" if result.broken_promise else ""),
        ("–" if ratio is None else f"{ratio:.3f}") + _marks(result, notes),
        "–" if result.largest_nano is None else f"{result.largest_nano / result.cap_nano:.3f}",
    )


def _marks(result: Result, notes: list[str]) -> str:
    """The numbers of the notes for what is not charged exactly."""
    marks = ""
    for basis, text in _NOT_EXACT.items():
        nano = result.recorded.by_basis.get(basis, 0)
        if nano:
            notes.append(f"{result.variant.name}: {nano / result.recorded.nano:.0%} of what is recorded is {text}.")
            marks += f" [{len(notes)}]"
    return marks
