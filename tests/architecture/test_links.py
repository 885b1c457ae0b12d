"""What a document points to exists."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)


def documents() -> list[Path]:
    """Every .md of ours; folders with a leading dot (.venv, caches) and the copies in mutants/ are not ours."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(p for p in paths if not any(part.startswith(".") or part == "mutants" for part in p.parts))


def anchors_of(text: str) -> set[str]:
    """Names that its headings can be linked by, made as GitHub makes them."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(text))
    return {title.replace(" ", "-") for title in titles}


def broken_links(document: Path) -> list[str]:
    """Targets inside this tree that do not exist, as written."""
    text = (ROOT / document).read_text(encoding="utf-8")
    broken = []
    for link in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        is_there = target.exists() and target.resolve().is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors_of(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", documents(), ids=str)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_broken_link_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# One two!\n[a](page.md#one-two) [b](#three) [c](away.md) `[d](code.md)` [e](https://x.y/z)\n")
    assert broken_links(Path("page.md")) == ["#three", "away.md"]
