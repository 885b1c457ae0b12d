"""Helicone's webhook: spend from elsewhere comes in, our own calls are trued up, nothing is counted twice.

Two payloads (WIRE facts in docs/webhooks.md): the product's simple one, and Helicone's own. The sender does not
retry and signs no time, so a replay is known by its id alone.
"""

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from budget.model import Basis
from budget.service import BudgetService
from core.clock import Clock
from core.errors import InvalidInput, Unauthorized
from core.ids import derived_id, uuid_to_id
from core.money import parse_usd_nano
from core.scope import Scope, parse_scope
from gateway.chat import MAX_TRIES, attempt_id
from gateway.http import read_json_object
from telemetry.prices import Price, PriceBook, UnpricedModel
from telemetry.pricing import cost_nano
from telemetry.usage import Tokens

log = logging.getLogger("spendgate.webhook")

_MAX_ID_CHARS = 200
_MAX_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class Spend:
    """What a webhook says. own_hold: the hold of the call, where this gateway made it."""

    source_id: str
    own_hold: str | None
    chain: tuple[Scope, ...]
    cost_nano: int | None
    provider: str
    model: str | None
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class HeliconeWebhook:
    """Takes webhooks in.

    secret: of the signature; None accepts unsigned ones if `accept_unsigned`.
    default_agent: who pays for a foreign call that names nobody.
    """

    budgets: BudgetService
    prices: PriceBook
    clock: Clock
    secret: str | None
    accept_unsigned: bool
    default_agent: str = "helicone"

    async def take(self, raw: bytes, signature: str | None) -> None:
        """Apply one webhook, once.

        Raises:
            Unauthorized: the signature is wrong or missing.
            InvalidInput: names the field and the rule; nothing was booked.
            StoreUnavailable: nothing was booked; it may be sent again.
        """
        self._check(raw, signature)
        data = read_json_object(raw)
        spend = self._read_helicone(data) if "request_id" in data else self._read_simple(data)
        if spend.own_hold:
            await self._true_up(spend)
            return
        cost, price = self._cost(spend)
        hold_id = derived_id("ext", "helicone", spend.source_id)
        settlement = await self.budgets.post(hold_id, spend.chain, cost, Basis.WEBHOOK, _detail(spend, price))
        if not settlement.applied:
            log.info("webhook for %s is a replay", spend.source_id)

    async def _true_up(self, spend: Spend) -> None:
        if spend.cost_nano is None and not spend.input_tokens + spend.output_tokens:
            return  # knows no better than we do
        cost, price = self._cost(spend)
        if not cost:
            return  # a sender that does not know the price says 0; that makes no call free
        hold_id = await self._answering_attempt(spend)
        settlement = await self.budgets.true_up(hold_id, cost, _detail(spend, price))
        if settlement is None:
            log.warning("webhook for our call %s came too late to true it up", spend.own_hold)

    async def _answering_attempt(self, spend: Spend) -> str:
        """The hold that a webhook is about: by a UUID that one attempt, by a request's id its last one."""
        hold_id = spend.own_hold or ""
        if not spend.source_id.startswith("req_"):
            return hold_id
        for number in range(1, MAX_TRIES + 1):
            following = attempt_id(spend.source_id, number)
            if await self.budgets.store.find(following) is None:
                break
            hold_id = following
        return hold_id

    def _check(self, raw: bytes, signature: str | None) -> None:
        """HMAC-SHA256 over the exact bytes, compared in constant time."""
        if not self.secret:
            if self.accept_unsigned:
                return
            raise Unauthorized("set HELICONE_WEBHOOK_SECRET: unsigned webhooks are taken on a loopback address only")
        expected = hmac.new(self.secret.encode(), raw, hashlib.sha256).hexdigest()
        if not signature or not hmac.compare_digest(expected.encode(), signature.strip().encode("latin-1", "replace")):
            raise Unauthorized("the header Helicone-Signature does not match the body")

    def _read_simple(self, data: Mapping[str, Any]) -> Spend:
        """``{scopeType, scopeKey, cost, requestId, provider, modelId, inputTokens, outputTokens}``."""
        request_id = _text(data, "requestId", required=True)
        return Spend(
            source_id=request_id,
            own_hold=_own_hold(request_id),
            chain=(parse_scope("scope", data.get("scopeType"), data.get("scopeKey")),),
            cost_nano=None if data.get("cost") is None else parse_usd_nano("cost", data["cost"]),
            provider=_text(data, "provider") or "unknown",
            model=_text(data, "modelId"),
            input_tokens=_count(data, "inputTokens"),
            output_tokens=_count(data, "outputTokens"),
        )

    def _read_helicone(self, data: Mapping[str, Any]) -> Spend:
        """Helicone's own payload; any part of its metadata may be missing. Nothing is fetched from its URLs."""
        request_id = _text(data, "request_id", required=True)
        metadata = data.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            raise InvalidInput("metadata", "must be an object")
        chain = [Scope("agent", self.default_agent)]
        user = data.get("user_id")
        if user:
            try:
                chain.append(parse_scope("user", "user", user))
            except InvalidInput as error:
                raise InvalidInput("user_id", error.rule) from None
        return Spend(
            source_id=request_id,
            own_hold=_own_hold(request_id),
            chain=tuple(chain),
            cost_nano=None if metadata.get("cost") is None else parse_usd_nano("metadata.cost", metadata["cost"]),
            provider=_text(data, "provider") or "unknown",
            model=_text(data, "model"),
            input_tokens=_count(metadata, "promptTokens"),
            output_tokens=_count(metadata, "completionTokens"),
        )

    def _cost(self, spend: Spend) -> tuple[int, Price | None]:
        """The cost that was sent, or the tokens at our price, and that price; never 0 for want of knowledge."""
        if spend.cost_nano is not None:
            return spend.cost_nano, None
        if not spend.model or not spend.input_tokens + spend.output_tokens:
            raise InvalidInput("cost", "is missing, and there are no tokens and model to compute it from")
        try:
            price = self.prices.price_at(spend.model, self.clock.now_ms())
        except UnpricedModel as error:
            raise InvalidInput("cost", f"is missing, and {error.message}") from None
        return cost_nano(price, Tokens(input=spend.input_tokens, output=spend.output_tokens)), price


def _own_hold(request_id: str) -> str | None:
    """The hold behind an id that we gave out: a UUID on an attempt, or the X-Request-Id of an answer."""
    prefix, _, digits = request_id.partition("_")
    text = digits if prefix in ("req", "hld") else request_id
    return uuid_to_id("hld", text)


def _detail(spend: Spend, price: Price | None) -> bytes:
    record: dict[str, Any] = {
        "source": "helicone",
        "source_id": spend.source_id,
        "provider": spend.provider,
        "model_served": spend.model,
        "scopes": [str(s) for s in spend.chain],
        "tokens": {"input": spend.input_tokens, "output": spend.output_tokens},
    }
    if price is not None:
        record["price_version"] = price.version
        record["prices"] = orjson.Fragment(price.wire)
    return orjson.dumps(record)


def _text(data: Mapping[str, Any], field: str, *, required: bool = False) -> str:
    value = data.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or not value or len(value) > _MAX_ID_CHARS:
        raise InvalidInput(field, f"must be text of 1 to {_MAX_ID_CHARS} characters")
    return value


def _count(data: Mapping[str, Any], field: str) -> int:
    value = data.get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TOKENS:
        raise InvalidInput(field, f"must be a whole number from 0 to {_MAX_TOKENS}")
    return value
