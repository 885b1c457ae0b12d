"""Files and functions that can be read at one sitting."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
SKIPPED = {"build", "dist", "mutants"}


def our_files() -> list[Path]:
    """Every .py of ours; folders with a leading dot (.venv, caches) are not ours."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(p for p in paths if not any(part.startswith(".") or part in SKIPPED for part in p.parts))


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function, from its `def` to its last line."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_there_are_files() -> None:
    assert Path("core/errors.py") in our_files()
    assert len(our_files()) > 20


@pytest.mark.parametrize("path", our_files(), ids=str)
def test_a_file_is_short(path: Path) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines < MAX_FILE_LINES
    long = [f"{name}: {count}" for name, count in functions_of(path) if count > MAX_FUNCTION_LINES]
    assert long == []
