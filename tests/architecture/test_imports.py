"""The house of the design document, held by what is imported and from where."""

import ast
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def imports_of(path: Path) -> Iterator[str]:
    """Top-level name of each import in the file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_resolves_inside_this_tree(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / package / "__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_hides_one_of_python(package: str) -> None:
    assert package not in sys.stdlib_module_names


def test_every_package_is_listed_everywhere() -> None:
    on_disk = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    tools = PROJECT["tool"]
    assert on_disk == set(PACKAGES)
    assert on_disk == set(tools["importlinter"]["root_packages"])
    assert on_disk | {"tests", "bench"} == set(tools["mypy"]["packages"])
    assert on_disk | {"tests", "bench"} == set(tools["ruff"]["lint"]["isort"]["known-first-party"])
    floors = tools["importlinter"]["contracts"][0]["layers"]
    assert on_disk == {package.strip() for floor in floors for package in floor.split("|")}


def test_core_needs_only_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"core"}
    strangers = {
        f"{path.name}: {name}"
        for path in (ROOT / "core").rglob("*.py")
        for name in imports_of(path)
        if name not in allowed
    }
    assert strangers == set()


def test_only_tests_import_tests() -> None:
    guilty = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if {"tests", "support", "pytest"} & set(imports_of(path))
    }
    assert guilty == set()


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
