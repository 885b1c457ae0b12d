"""One call as the gateway understands it, whatever surface it came by, and what came of it."""

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from budget.model import AccountTerms, BudgetState
from budget.service import Admission
from core.scope import Chain
from core.values import value
from gateway.http import Client
from routing.model import Endpoint, Model
from routing.upstream import UpstreamAnswer
from telemetry.prices import Price
from telemetry.usage import Usage

log = logging.getLogger("spendgate.gateway")

Operation = Literal["chat", "embeddings"]


@dataclass(slots=True)
class Call:
    """A parsed request.

    asked: the model that the caller named, None for the routes' primary.
    body: an OpenAI-shaped request without model and stream.
    wants_usage: whether a streaming caller asked for the chunk with the usage.
    raw_bytes: size of the request's JSON, which bounds the tokens of its text.
    chain: who pays, narrow to wide.
    received_s: monotonic time when the request began.
    client: who waits for the answer; None: it is not asked, the call is carried to its end.
    model: what `asked` names, once that is known.
    told: what every record of the call begins with, once it has been written (`gateway.record`).
    """

    request_id: str
    surface: str
    operation: Operation
    asked: str | None
    body: dict[str, Any]
    stream: bool
    wants_usage: bool
    raw_bytes: int
    chain: Chain
    key_id: str
    received_ms: int
    received_s: float
    traceparent: str | None = None
    client: Client | None = None
    model: Model | None = None
    told: bytes = b""

    @property
    def left(self) -> bool:
        """The client has gone away."""
        return self.client is not None and self.client.gone


@dataclass(slots=True)
class Attempt:
    """One try at one model, inside one hold.

    body: what is sent, with the granted max_tokens and without disabled tools.
    dropped_tools: names of the tools that were taken out.
    why: why the model or the answer's length is not what was asked for; None when it is.
    told: what its records say of model, endpoint and prices.
    """

    admission: Admission
    model: Model
    endpoint: Endpoint
    price: Price
    told: bytes
    body: dict[str, Any]
    dropped_tools: list[str]
    why: str | None
    upstream_s: float = 0.0


@value
class AccountStanding:
    """An account after a call: its terms, balance and state."""

    terms: AccountTerms
    spent_nano: int
    held_nano: int
    state: BudgetState


@dataclass(slots=True)
class Answered:
    """A call that was answered and settled.

    answer: of the upstream; None: it came as a stream.
    cost_nano: of all its attempts. standing: the account of the chain that is closest to its end.
    """

    call: Call
    attempt: Attempt
    answer: UpstreamAnswer | None
    usage: Usage
    cost_nano: int
    standing: AccountStanding
    skipped_circuits: list[str] = field(default_factory=list)


def standing_now(admission: Admission) -> AccountStanding:
    """The account that decides, as it was when the hold was made."""
    return standing_after(admission, 0, 0)


def standing_after(admission: Admission, cost_nano: int, held_nano: int) -> AccountStanding:
    """The account that decides once a hold has ended: the worst state, then the largest share of its hard cap used.
    Other calls may have changed the accounts meanwhile: the books know.
    """
    deciding, most = None, (-1, -1.0)
    for terms, before in admission.watching:
        spent_nano, still_held_nano = before.spent_nano + cost_nano, before.held_nano - held_nano
        state = terms.state_at(spent_nano)
        if state > before.state:
            log.warning("%s is now %s", terms.scope, state.label)
        rank = (state, (spent_nano + still_held_nano) / (terms.hard_nano or 1))
        if rank > most:
            deciding, most = AccountStanding(terms, spent_nano, still_held_nano, state), rank
    assert deciding is not None, "a hold is on some account"
    return deciding
