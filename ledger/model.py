"""What the ledger keeps, besides the cost records of `ledger.columns`.

An event of the live state becomes:
1. itself (`EventRow`), whole, so that live accounts can be rebuilt from the ledger;
2. what it posted on each account (`Posting`);
3. if a call ended or was refused by it, a row about the call (`CallRow`);
4. cost records, whose sum is what was posted.
"""

from dataclasses import dataclass, field
from typing import Any

from core.values import value

#: A cost record, or a part of one: column name to value. Money, prices and quantities are decimal text, times are text
#: as `ledger.charges.timestamp` writes them; what is null is left out.
Charge = dict[str, Any]


@value
class Position:
    """How far the ledger has come.

    epoch: of the store's memory; "": nothing yet. sequence, event_id: the newest event of that epoch.
    refusal_id: the newest refusal; they have a stream of their own, which is not counted.
    """

    epoch: str = ""
    sequence: int = 0
    event_id: str = ""
    refusal_id: str = ""


@value
class EventRow:
    """An event as the live state wrote it.

    identity: the same for an event that a rebuild of the live state did again.
    fields: JSON object of all its fields.
    """

    identity: str
    event_id: str
    epoch: str
    sequence: int
    at_ms: int
    type: str
    hold_id: str | None
    request_id: str | None
    fields: str


@value
class Posting:
    """What an event posted on one account, in nano-dollars."""

    identity: str
    at_ms: int
    account_id: str
    posted_nano: int


@value
class CallRow:
    """An attempt that ended, spend that was posted without one, or a call that was refused.

    kind: settle, void, expire, true_up, post, or refusal.
    scopes: the chain, ``type:key`` each, narrow to wide. agent, team: keys of these types in it.
    posted_nano: by this event; cost_nano: of the call, as known now.
    saved_nano: downgraded: what the model asked for would have cost more; refused: the least that it needed.
    started_ms: when the request came; latency_ms: until its attempt ended; None: not known.
    outcome: answered, aborted, expired, refused, the kind of a failure, or webhook.
    refusal: the code of a refusal. account_id: the account that refused.
    path: the chain as sums are kept of it (`ledger.scopes`).
    balances: refused: how the accounts of the chain stood, as JSON: a list of
        ``[account, spent_nano, held_nano, state, limit_nano, hard_nano]``; None: not told.
    """

    identity: str
    at_ms: int
    kind: str
    outcome: str
    request_id: str | None
    hold_id: str
    surface: str | None
    operation: str | None
    stream: bool
    key_id: str | None
    scopes: list[str]
    agent: str | None
    team: str | None
    provider: str | None
    model_requested: str | None
    model_served: str | None
    downgraded: bool
    state: str | None
    basis: str | None
    why: str | None
    posted_nano: int
    cost_nano: int
    held_nano: int
    saved_nano: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    started_ms: int | None
    latency_ms: int | None
    upstream_ms: int | None
    refusal: str | None
    account_id: str | None
    path: str
    balances: str | None = None


@value
class Item:
    """A cost record of an event, besides what all of the event share.

    kind: its seller, SKU, month and so on; the same object for many, so an engine can keep it once.
    quantity, unit_pico: None: not counted; else their product is the cost. rounding_pico: x_RoundingCost.
    All four costs of FOCUS are `cost_pico`.
    """

    kind: Charge
    cost_pico: int
    rounding_pico: int
    quantity: int | None
    unit_pico: int | None


@value
class ChargeGroup:
    """The cost records of an event.

    chain: the columns that tell of the scopes; the same object for many. path: as of `CallRow`.
    start_ms, end_ms: the charge period, the end exclusive.
    """

    identity: str
    path: str
    chain: Charge
    hold_id: str
    request_id: str | None
    start_ms: int
    end_ms: int
    recorded_ms: int
    items: list[Item]


@dataclass(slots=True)
class Batch:
    """Rows of some events in the order of the stream, to be added all or none.

    position: where the ledger is afterwards. stays: it is there already and stays, wherever it goes meanwhile.
    """

    position: Position
    stays: bool = False
    events: list[EventRow] = field(default_factory=list)
    postings: list[Posting] = field(default_factory=list)
    calls: list[CallRow] = field(default_factory=list)
    charges: list[ChargeGroup] = field(default_factory=list)
