"""docs/settings.md, made from the settings themselves: ``python -m spendgate.settings_doc > docs/settings.md``."""

from pydantic import AliasChoices

from spendgate.settings import Settings

_HEAD = """# Settings

All settings are environment variables, read once at the start. Command-line options of `spendgate serve` win.
This page is made by `python -m spendgate.settings_doc`.

| variable | default | what it is |
|---|---|---|
"""
_TAIL = """
The routes file takes more from the environment. The default routes use `DATABRICKS_BASE_URL` and either
`DATABRICKS_API_KEY` (a personal access token) or `DATABRICKS_CLIENT_ID` and `DATABRICKS_CLIENT_SECRET` (OAuth
machine-to-machine); your own file names what it needs, see [routes](routes.md).
"""


def settings_page() -> str:
    """The page's text."""
    rows = []
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        name = alias.choices[0] if isinstance(alias, AliasChoices) else alias
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


if __name__ == "__main__":
    print(settings_page(), end="")
