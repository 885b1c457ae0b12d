"""Numbers as people read them."""

import pytest

from core.errors import InvalidInput, NotFound, SpendgateError
from dashboard.formats import money, percent, told


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1_234_567_890_000, "$1,234.57"),
        (10**9, "$1.00"),
        (500_000_000, "$0.50"),
        (185_000_000, "$0.1850"),
        (522_375_000, "$0.5224"),
        (2_651_500, "$0.002652"),
        (-1_010_000_000, "−$1.01"),
    ],
)
def test_money(nano: int, text: str):
    assert money(nano) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0.0"),
        (1, 3, "33.3"),
        (2, 3, "66.7"),
        (5, 4, "125.0"),
        (10**15, 2 * 10**15, "50.0"),
    ],
)
def test_percent(part: int, whole: int, text: str):
    assert percent(part, whole) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidInput("limitUsd", "must be more"), "The limit must be more"),
        (InvalidInput("replay.changes.hardCap", "must be more"), "“Stopped at” must be more"),
        (InvalidInput("downgrade.0.to", "is not usable"), "“Beyond the limit, in place of” is not usable"),
        (InvalidInput("range", "must be one of 24h"), "Range must be one of 24h"),
        (NotFound("there is no budget x"), "There is no budget x"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_the_pages(error: SpendgateError, text: str):
    assert told(error) == text
