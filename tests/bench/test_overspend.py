"""The experiment on overspending still works, and its first variant holds its cap."""

from dataclasses import replace

import pytest

from bench.overspend.experiment import run_variant
from bench.overspend.spendgate import Spendgate
from bench.overspend.table import table
from bench.overspend.upstream import running_upstream
from bench.overspend.variants import VARIANTS


def test_a_crowd_does_not_get_beyond_the_cap() -> None:
    plain = next(variant for variant in VARIANTS if variant.name == "plain")
    with running_upstream() as upstream:
        result = run_variant(Spendgate(), upstream, replace(plain, calls=50, concurrency=50))
    assert result.broken_promise is None and result.exact_agrees
    assert 0.8 < result.bill_to_cap <= 1
    assert result.largest_nano is not None and result.largest_nano <= result.cap_nano
    assert result.recorded.nano == result.billed_nano
    assert result.let_through == result.answers["200"] == 9
    assert "| plain " in table([result])


def test_overspending_is_a_broken_promise() -> None:
    plain, runaway = (next(variant for variant in VARIANTS if variant.name == name) for name in ("plain", "runaway"))
    with running_upstream() as upstream:
        result = run_variant(Spendgate(), upstream, replace(runaway, calls=20, concurrency=20))
    assert result.broken_promise is None, "nobody can hold a cap against an upstream that ignores max_tokens"
    assert result.bill_to_cap > 1 and result.recorded_to_bill == pytest.approx(1)
    assert replace(result, variant=plain).broken_promise == "the bill is 3.58 of the cap"
