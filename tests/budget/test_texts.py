"""Texts of several parts: what separates them can be in none of them."""

import pytest

from budget.checks import check_request, check_resolution, check_text
from budget.model import Basis, NextHold, ReserveRequest, Resolution, ResolveMode
from budget.ports import ACCOUNT_KEPT_AFTER_END_MS, MAX_CLOCK_SKEW_MS
from budget.script import Script
from budget.texts import EVENT, SEPARATOR, event_fields, event_text, hold_text
from core.errors import InvalidInput
from tests.budget.builders import fixed, terms

BAD = f"a{SEPARATOR}b"


def test_an_event_is_names_and_values_in_turn() -> None:
    assert event_fields({b"e": "seq\x1f7\x1ftype\x1fterms\x1fwhy\x1f\x1faccount\x1fé\nb".encode()}) == {
        "seq": "7",
        "type": "terms",
        "why": "",
        "account": "é\nb",
    }


def test_an_event_comes_back_as_it_was() -> None:
    fields = {"seq": "7", "why": "", "detail": '{"é":1}'}
    assert event_fields({EVENT: event_text(fields)}) == fields


def test_an_event_without_its_last_value_is_none() -> None:
    with pytest.raises(ValueError, match="zip"):
        event_fields({b"e": b"seq\x1f7\x1ftype"})


def test_a_hold_with_all_its_parts_and_one_without_accounts() -> None:
    hold = hold_text(b'held\x1f40\x1f0\x1f1\x1f64\x1fw:1:2\x1f\x1f1795\x1fa:1\nb:2\x1f{"x":1}')
    assert (hold.status, hold.amount, hold.tokens, hold.owner, hold.held_ms) == ("held", "40", "64", "w:1:2", "1795")
    assert hold.account_ids == ("a:1", "b:2") and hold.detail == '{"x":1}'
    assert hold_text(b"voided\x1f0\x1f0\x1f\x1f\x1f\x1f\x1f\x1f\x1f").account_ids == ()


@pytest.mark.parametrize("field", ["hold_id", "owner", "detail"])
def test_a_request_with_a_separator_in_it(field: str) -> None:
    given = {"hold_id": "h", "owner": "w", "detail": b"{}"} | {field: BAD.encode() if field == "detail" else BAD}
    request = ReserveRequest(
        now_ms=0,
        version=0,
        lease_ms=1,
        accounts=(terms(),),
        candidates=(fixed(1),),
        **given,  # type: ignore[arg-type]
    )
    with pytest.raises(InvalidInput):
        check_request(request)


@pytest.mark.parametrize(
    "resolution",
    [
        Resolution(BAD, ResolveMode.VOID, ("a",)),
        Resolution("h", ResolveMode.SETTLE, ("a",), 1, Basis.EXACT, BAD.encode()),
        Resolution("h", ResolveMode.VOID, ("a",), next_hold=NextHold(BAD, 1, b"{}")),
        Resolution("h", ResolveMode.VOID, ("a",), next_hold=NextHold("n", 1, BAD.encode())),
        Resolution("h", ResolveMode.VOID, ("a",), next_hold=NextHold("n", 1, b"{}"), owner=BAD),
    ],
)
def test_a_resolution_with_a_separator_in_it(resolution: Resolution) -> None:
    with pytest.raises(InvalidInput):
        check_resolution(resolution)


def test_what_has_none_is_fine() -> None:
    check_text("x", "text\n", b"bytes\t")


def test_the_scripts_know_the_same_limits() -> None:
    text = Script("budget", "reserve").text
    assert f"= {MAX_CLOCK_SKEW_MS}, {ACCOUNT_KEPT_AFTER_END_MS}\n" in text
