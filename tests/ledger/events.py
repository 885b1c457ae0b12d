"""Events as the live state writes them: a small model of budget/lua with calls, webhooks, losses and refusals.

Amounts are nano-dollars, times epoch milliseconds. `Stream.spent` is what the accounts come to.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from ledger.model import Batch, Position
from ledger.records import batch_of

#: Monday, 2026-11-23 10:00 UTC.
START_MS = 1_795_428_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RECORDED_MS = START_MS + 400 * DAY_MS

#: Pico-dollars a token, and a fee of the call in nano-dollars.
PRICES = {
    "dbrx": {"input": 750_000, "cached_input": 75_300, "cache_write": 0, "output": 2_250_000, "reasoning": 0},
    "mixtral": {"input": 500_000, "cached_input": 500_000, "cache_write": 0, "output": 1_000_333, "reasoning": 1},
    "sonnet": {"input": 3_000_000, "cached_input": 300_000, "cache_write": 3_750_000, "output": 15_000_000}
    | {"reasoning": 15_000_000},
    "databricks-dbrx-instruct": {"input": 15_000_000, "output": 45_000_000},
    "databricks-mixtral-8x7b-instruct": {"input": 500_000, "output": 1_000_000},
}
TOKENS = {"input": 101, "cached_input": 7, "cache_write": 0, "output": 60, "reasoning": 0}


def prices_of(model: str, request_nano: int = 0) -> dict[str, int]:
    """What an event says of a model's prices."""
    return dict.fromkeys(TOKENS, 0) | PRICES[model] | {"request_nano": request_nano}


def cost_of(tokens: dict[str, int], prices: dict[str, int]) -> int:
    """What tokens cost, rounded up."""
    pico = sum(tokens.get(name, 0) * prices[name] for name in TOKENS)
    return -(-pico // 1000) + prices["request_nano"]


@dataclass
class Call:
    """A hold, and what the live state knows of it."""

    hold_id: str
    detail: dict[str, Any]
    accounts: list[str]
    amount_nano: int = 0
    posted_nano: int = 0
    status: str = "none"

    @property
    def request_id(self) -> str:
        """The request's id."""
        return str(self.detail["request_id"])


@dataclass
class Stream:
    """The events of one epoch, oldest first, and the refusals."""

    epoch: str = "ep_1"
    now_ms: int = START_MS
    spent: dict[str, int] = field(default_factory=dict)
    events: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refusals: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    made: int = 0
    taken: int = 0

    def take(self) -> list[tuple[str, dict[str, str]]]:
        """The events so far, which the stream then no longer has."""
        events, self.events = self.events, []
        self.taken += len(events)
        return events

    def hold(
        self,
        agent: str = "bot",
        team: str | None = "ml",
        *,
        user: str | None = None,
        session: str | None = None,
        model: str = "dbrx",
        amount_nano: int = 500_000,
        **more: Any,
    ) -> Call:
        """Reserve for a call that begins now."""
        call = self._begin(agent, team, user, session, model, more)
        call.status, call.amount_nano = "held", amount_nano
        self._write(
            "hold",
            hold=call.hold_id,
            amount_nano=amount_nano,
            candidate=0,
            tokens=64,
            accounts="\n".join(call.accounts),
            owner="w1",
            detail=_json(call.detail),
        )
        return call

    def settle(
        self,
        call: Call,
        *,
        model: str = "dbrx",
        provider: str = "Databricks",
        tokens: dict[str, int] | None = TOKENS,
        cost_nano: int | None = None,
        basis: str = "exact",
        outcome: str = "answered",
        state: str = "Active",
        fee_nano: int = 0,
        lasted_ms: int = 900,
        **more: Any,
    ) -> int:
        """End a call after `lasted_ms`; what was posted."""
        self.now_ms += lasted_ms
        prices = prices_of(model, fee_nano)
        if cost_nano is None:
            cost_nano = cost_of(tokens or {}, prices)
        detail = call.detail | {
            "model_served": model,
            "endpoint": f"{model}-endpoint",
            "provider": provider,
            "price_version": f"{model}@2026-01-01",
            "prices": prices,
            "cost_nano": str(cost_nano),
            "held_nano": str(call.amount_nano),
            "ended_ms": self.now_ms,
            "upstream_ms": lasted_ms - 100,
            "outcome": outcome,
            "why": None,
            "state": state,
        }
        if model != call.detail["model_requested"]:
            detail["asked_prices"] = prices_of(call.detail["model_requested"])
        if tokens is not None:
            detail["tokens"] = tokens
        return self._resolve("settle", call, cost_nano, basis, detail | more)

    def void(self, call: Call, outcome: str = "unreachable") -> int:
        """End a call that was charged nothing; what was posted."""
        served = {"model_served": "dbrx", "provider": "Databricks", "ended_ms": self.now_ms, "outcome": outcome}
        return self._resolve("void", call, 0, "exact", call.detail | served | {"state": "Active"})

    def expire(self, call: Call) -> int:
        """The lease is over: all of the hold is posted."""
        return self._resolve("expire", call, call.amount_nano, "unconfirmed", call.detail)

    def true_up(self, call: Call, cost_nano: int, source_id: str = "") -> int:
        """A webhook knows the cost of our own call better; it names the request, or something of its own."""
        detail = _webhook_detail(source_id or call.request_id, "bot", {"input": 100, "output": 60}, "dbrx")
        return self._resolve("true_up", call, cost_nano, "webhook", detail)

    def post(self, source_id: str, cost_nano: int | None = None, *, agent: str = "helicone", **more: Any) -> Call:
        """Spend of a foreign call; without a cost its tokens are priced here."""
        tokens = {"input": 120, "output": 33}
        detail = _webhook_detail(source_id, agent, tokens, "sonnet") | more
        if cost_nano is None:
            detail |= {"price_version": "sonnet@2026-01-01", "prices": prices_of("sonnet")}
            cost_nano = cost_of(tokens, prices_of("sonnet"))
        call = Call(f"ext_{source_id}", detail, [self._account("agent", agent)])
        self._resolve("post", call, cost_nano, "webhook", detail)
        return call

    def refuse(
        self,
        agent: str = "bot",
        team: str | None = "ml",
        *,
        code: str = "budget_exceeded",
        needed_nano: int = 40_000,
        account: str = "0",
        **more: Any,
    ) -> str:
        """A call that was not admitted; its request's id."""
        call = self._begin(agent, team, None, None, "dbrx", more)
        fields = {
            "hold": call.hold_id,
            "code": code,
            "account": account,
            "needed_nano": str(needed_nano),
            "accounts": "\n".join(call.accounts),
            "balances": "\n".join(
                f"{self.spent.get(a, 0)} {500 * n} 1 1000000 1200000" for n, a in enumerate(call.accounts)
            ),
            "detail": _json(call.detail),
            "at_ms": str(self.now_ms),
        }
        self.refusals.append((f"{self.now_ms}-{len(self.refusals)}", fields))
        return call.request_id

    def terms(self, account: str, limit_nano: int = 10**9) -> None:
        """An account learns its limits."""
        self._write(
            "terms",
            account=account,
            terms=f"{limit_nano} {limit_nano * 8 // 10} {limit_nano}",
            period_end_ms="",
            keep_until_ms="",
        )

    def state(self, account: str, was: int, now: int, *, cause: str = "hld_0", why: str = "spend") -> None:
        """An account changes its state."""
        self._write(
            "state",
            account=account,
            **{"from": was},
            to=now,
            spent_nano=self.spent.get(account, 0),
            limit_nano=10**9,
            cause=cause,
            why=why,
        )

    def document(self, name: str = "budget:b", version: int = 1) -> None:
        """A document of the snapshot changes."""
        self._write("document", id=name, change="put", version=version, text='{"limit":"1"}')

    def rebuilt_sum(self, account: str, nano: int) -> None:
        """What a rebuild posts for many old events at once."""
        call = Call(f"rbd_{account}", {"outcome": "rebuilt"}, [account])
        self._resolve("post", call, nano, "exact", call.detail)

    def rebuilt(self, epoch: str, *, later_ms: int = 0) -> "Stream":
        """The live state after a loss: holds and money once more, with other ids and other numbers, then goes on.

        later_ms: how much later the events say they were, as of what a worker tells from its own memory.
        """
        again = Stream(epoch, self.now_ms, dict(self.spent), refusals=list(self.refusals), made=self.made)
        again.events.append(("1-1", {"seq": "1", "type": "terms", "account": "b", "terms": "1 1 1"}))
        again.events[0][1].update(period_end_ms="", keep_until_ms="", at_ms=str(self.now_ms))
        for _, fields in self.events:
            if "hold" in fields:
                seq, at_ms = str(len(again.events) + 1), str(int(fields["at_ms"]) + later_ms)
                again.events.append((f"{self.now_ms}-{seq}", fields | {"seq": seq, "at_ms": at_ms}))
        return again

    def batch(self, start: Position, count: int = 10**9) -> Batch:
        """The next events after a position, and the refusals, as the ledger takes them."""
        after = start.sequence if start.epoch == self.epoch else 0
        refused = [r for r in self.refusals if _order(r[0]) > _order(start.refusal_id or "0-0")]
        return batch_of(self.events[after : after + count], refused, start, self.epoch, RECORDED_MS)

    def _begin(
        self, agent: str, team: str | None, user: str | None, session: str | None, model: str, more: dict[str, Any]
    ) -> Call:
        self.made += 1
        digits = f"{self.now_ms:012x}85be{2**63 + self.made:016x}"
        chain = (("session", session), ("agent", agent), ("user", user), ("team", team), ("org", "acme"))
        detail = {
            "request_id": f"req_{digits}",
            "surface": "openai",
            "operation": "chat",
            "stream": False,
            "key_id": "key_1",
            "scopes": [f"{kind}:{key}" for kind, key in chain if key is not None],
            "started_ms": self.now_ms,
            "model_requested": model,
        }
        accounts = [self._account(kind, key) for kind, key in chain if kind in ("agent", "team") and key is not None]
        return Call(f"hld_{digits}", detail | more, accounts)

    def _account(self, kind: str, key: str) -> str:
        return f"{kind}s:month-2026-11:{key}"

    def _resolve(self, mode: str, call: Call, cost_nano: int, basis: str, detail: dict[str, Any]) -> int:
        delta_nano = cost_nano - call.posted_nano
        for account in call.accounts:
            self.spent[account] = self.spent.get(account, 0) + delta_nano
        self._write(
            mode,
            hold=call.hold_id,
            before=call.status,
            cost_nano=cost_nano,
            delta_nano=delta_nano,
            overage_nano=max(0, cost_nano - call.amount_nano) if call.status == "held" else 0,
            held_nano=call.amount_nano,
            basis=basis,
            accounts="\n".join(call.accounts),
            spent_after=" ".join(str(self.spent[a]) for a in call.accounts),
            detail=_json(detail),
        )
        after = {"void": "voided", "expire": "expired"}
        call.status, call.posted_nano = after.get(mode, "settled"), cost_nano
        return delta_nano

    def _write(self, kind: str, **fields: Any) -> None:
        seq = self.taken + len(self.events) + 1
        text = {name: str(given) for name, given in fields.items()}
        self.events.append(
            (f"{self.now_ms}-{seq}", {"seq": str(seq), "type": kind} | text | {"at_ms": str(self.now_ms)})
        )


def _webhook_detail(source_id: str, agent: str, tokens: dict[str, int], model: str) -> dict[str, Any]:
    return {
        "source": "helicone",
        "source_id": source_id,
        "provider": "OpenAI",
        "model_served": model,
        "scopes": [f"agent:{agent}"],
        "tokens": tokens,
    }


def _json(detail: dict[str, Any]) -> str:
    return orjson.dumps(detail).decode()


def _order(event_id: str) -> tuple[int, int]:
    at_ms, _, number = event_id.partition("-")
    return int(at_ms), int(number)


def everything(stream: Stream | None = None) -> Stream:
    """A bit of all that can happen, over two days."""
    s = stream or Stream()
    s.terms("agents:month-2026-11:bot")
    s.document()
    s.settle(s.hold(session="s1", user="ann"))
    s.settle(s.hold("scout", "ops", session="s2"), model="mixtral", state="Degraded")
    s.settle(s.hold("scout", "ops", model="sonnet"), model="sonnet", provider="Anthropic", fee_nano=1_500)
    s.settle(s.hold("lone", None), tokens={"input": 5, "output": 3}, basis="estimated", cost_nano=77_000)
    s.settle(s.hold(), tokens=None, cost_nano=500_000, basis="estimated", outcome="aborted")
    s.void(s.hold())
    s.refuse()
    s.refuse("scout", "ops", code="no_budget", account="")
    s.state("agents:month-2026-11:bot", 0, 1)
    s.now_ms += 7 * HOUR_MS + 123_456
    lost, found, free, trued = s.hold(), s.hold("scout", "ops"), s.hold(session="s1"), s.hold()
    s.settle(trued)
    s.now_ms += 20 * HOUR_MS
    for call in (lost, found, free):
        s.expire(call)
    s.post("wh-1")
    s.post("wh-2", 123_456_789)
    s.state("agents:month-2026-11:bot", 1, 2)
    s.now_ms += HOUR_MS
    s.settle(found, lasted_ms=0)
    s.void(free)
    s.true_up(trued, 300_000)
    s.true_up(lost, 100)
    s.refuse(code="budget_stopped")
    return s
