"""API keys: what they look like, what they may, and what is never told."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Forbidden, Unauthorized
from core.keys import ApiKey, KeyRing, KeyRole, digest_of, key_id_of, new_key_text, scope_chain
from core.scope import Scope

AGENT, ADMIN = KeyRole
BOT = Scope("agent", "bot")


def make(role: KeyRole = AGENT, *scopes: Scope, may_name: tuple[Scope, ...] = ()) -> tuple[ApiKey, str]:
    key_id, text = new_key_text(role)
    return ApiKey(key_id, "n", role, digest_of(text), scopes, may_name), text


@pytest.mark.parametrize("role", list(KeyRole))
def test_every_key_has_the_same_shape_and_its_own_secret(role: KeyRole) -> None:
    made = [new_key_text(role) for _ in range(100)]
    for key_id, text in made:
        assert re.fullmatch(rf"sg_{role.value}_{key_id}_[0-9a-f]{{64}}", text)
    assert len({key_id for key_id, _ in made}) == len({text for _, text in made}) == 100


def test_the_text_of_a_key_is_not_kept() -> None:
    key, text = make()
    assert text not in repr(key)
    assert text.rpartition("_")[2] not in repr(key)


def test_a_key_works_in_its_role_only() -> None:
    (agent, agent_text), (admin, admin_text) = make(AGENT), make(ADMIN)
    ring = KeyRing([agent, admin])
    assert ring.authenticate(agent_text, AGENT) == agent
    assert ring.authenticate(admin_text, ADMIN) == admin
    for text, role in ((agent_text, ADMIN), (admin_text, AGENT)):
        with pytest.raises(Forbidden):
            ring.authenticate(text, role)


@pytest.mark.parametrize("text", [None, "", "sg", "sg_agent_x", "sg_agent__", "Bearer x", "é" * 100, "_" * 10])
def test_what_is_no_key_is_not_known(text: str | None) -> None:
    key, _ = make()
    with pytest.raises(Unauthorized):
        KeyRing([key]).authenticate(text, AGENT)


def test_a_known_id_with_a_wrong_secret_is_not_known() -> None:
    key, text = make()
    ring = KeyRing([key])
    for wrong in (text[:-1] + ("0" if text[-1] != "0" else "1"), text + "0", text.upper(), text[:-1]):
        with pytest.raises(Unauthorized):
            ring.authenticate(wrong, AGENT)


def test_a_changed_role_in_the_text_does_not_help() -> None:
    key, text = make(AGENT)
    with pytest.raises(Unauthorized):
        KeyRing([key]).authenticate(text.replace("sg_agent_", "sg_admin_"), ADMIN)


def test_a_key_that_was_chosen_outside() -> None:
    text = "correct horse battery staple"
    key = ApiKey(key_id_of(text), "admin", ADMIN, digest_of(text), source="env")
    assert KeyRing([key]).authenticate(text, ADMIN) == key
    assert text not in key.id


def test_a_ring_is_changed_one_by_one() -> None:
    key, text = make()
    ring = KeyRing()
    ring.put(key)
    assert ring.all() == [key]
    ring.remove(key.id)
    ring.remove(key.id)
    assert ring.all() == []
    with pytest.raises(Unauthorized):
        ring.authenticate(text, AGENT)


@pytest.mark.parametrize(
    ("pattern", "scope", "allowed"),
    [
        ("agent:*", "agent:any", True),
        ("agent:*", "team:any", False),
        ("team:ml-*", "team:ml-vision", True),
        ("team:ml-*", "team:sales", False),
        ("team:ml-*", "team:ML-vision", False),
        ("team:a", "team:a", True),
        ("team:a", "team:ab", False),
        ("agent:bot", "agent:bot", True),
    ],
)
def test_what_a_key_may_name(pattern: str, scope: str, allowed: bool) -> None:
    key, _ = make(AGENT, may_name=(Scope(*pattern.split(":")),))
    assert key.may(Scope(*scope.split(":"))) is allowed


def test_a_chain_is_the_keys_own_scopes_and_itself() -> None:
    key, _ = make(AGENT, Scope("team", "ml"), BOT)
    assert scope_chain(key, {}) == (BOT, Scope("key", key.id), Scope("team", "ml"))


def test_a_named_scope_replaces_the_keys_own_of_its_type() -> None:
    key, _ = make(AGENT, Scope("team", "ml"), BOT, may_name=(Scope("agent", "*"), Scope("task", "t-*")))
    other, task = Scope("agent", "other"), Scope("task", "t-1")
    chain = scope_chain(key, {"agent": other, "task": task})
    assert chain == (task, other, Scope("key", key.id), Scope("team", "ml"))


def test_naming_what_is_not_allowed_is_refused() -> None:
    key, _ = make(AGENT, BOT, may_name=(Scope("task", "*"),))
    with pytest.raises(Forbidden, match="agent:other"):
        scope_chain(key, {"agent": Scope("agent", "other")})


def test_nobody_spends_as_another_key() -> None:
    key, _ = make(AGENT, may_name=(Scope("key", "*"),))
    assert scope_chain(key, {"key": Scope("key", "other")}) == (Scope("key", key.id),)


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_refused_without_an_error_of_another_kind(text: str) -> None:
    key, _ = make()
    with pytest.raises(Unauthorized):
        KeyRing([key]).authenticate(text, AGENT)
