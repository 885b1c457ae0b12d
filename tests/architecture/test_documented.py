"""What the documentation says of the settings is what the settings are."""

from pathlib import Path

from spendgate.settings_doc import settings_page

_ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_documented_as_it_is():
    page = (_ROOT / "docs" / "settings.md").read_text()
    assert page == settings_page(), "run: python -m spendgate.settings_doc > docs/settings.md"
