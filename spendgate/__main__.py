"""``python -m spendgate``."""

from spendgate.cli import app

app()
