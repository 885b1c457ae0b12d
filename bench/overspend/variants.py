"""The experiment and its variants: what the callers do, what the upstream does, what goes wrong meanwhile."""

from dataclasses import dataclass
from typing import Literal

Harm = Literal["store", "gateway"]


@dataclass(frozen=True, slots=True)
class Variant:
    """A crowd on one cap.

    calls, concurrency: how many there are, and how many at a time.
    cap_calls: calls that the cap is worth, at what the upstream bills for one with `worth_tokens` of output.
    max_tokens: what the caller asks for; None asks for nothing.
    answer_tokens: what the upstream would like to say.
    worth_tokens: of output; what one call is expected to have.
    hangs_up: the caller streams, and closes the connection after the first chunk with content.
    priced: False calls a model that no price list has.
    with_usage: False: the upstream's answers do not say what they used.
    obeys_max_tokens: False: the upstream goes on to `answer_tokens`.
    harm: what is stopped while calls are in flight: the store for two seconds, or the gateway by kill -9.
    workers: of the gateway.
    patience_s: how long a caller comes again after 429, 503 and broken connections; 0 never.
    latency_ms: of the upstream. chunk_delay_ms: between two chunks of a stream, each of 40 tokens.
    least_used: of the cap, what a gateway that refuses too much would miss; None: no expectation.
    may_exceed: True where no gateway that must believe in max_tokens can hold the cap.
    """

    name: str
    title: str
    calls: int = 200
    concurrency: int = 100
    cap_calls: int = 10
    max_tokens: int | None = 500
    answer_tokens: int = 500
    worth_tokens: int = 500
    hangs_up: bool = False
    priced: bool = True
    with_usage: bool = True
    obeys_max_tokens: bool = True
    harm: Harm | None = None
    workers: int = 1
    patience_s: float = 0.0
    latency_ms: int = 300
    chunk_delay_ms: int = 200
    least_used: float | None = None
    may_exceed: bool = False


#: What a model says at most when nobody asks for less; also what a gateway may assume of it.
FULL_LENGTH_TOKENS = 1024

VARIANTS = (
    Variant("plain", "200 calls, 100 at a time"),
    Variant(
        "long",
        "no max_tokens, answers of full length",
        max_tokens=None,
        answer_tokens=FULL_LENGTH_TOKENS,
        worth_tokens=FULL_LENGTH_TOKENS,
    ),
    Variant("aborted", "streams left after the first chunk, 200 tokens a second", hangs_up=True, patience_s=10),
    Variant("aborted-fast", "the same, 800 tokens a second", hangs_up=True, patience_s=10, chunk_delay_ms=50),
    Variant("unpriced", "a model without a price", priced=False),
    Variant("no-usage", "answers without usage", with_usage=False, patience_s=10),
    Variant("store-down", "the store stops for 2 s", harm="store", patience_s=10),
    Variant("killed", "kill -9 of the gateway, then again", harm="gateway", patience_s=40),
    Variant("workers", "two workers", workers=2),
    Variant(
        "runaway",
        "the upstream ignores max_tokens, says 4 ×",
        answer_tokens=2000,
        obeys_max_tokens=False,
        may_exceed=True,
    ),
    Variant(
        "one-by-one",
        "one caller, cap worth 200 calls",
        calls=400,
        concurrency=1,
        cap_calls=200,
        latency_ms=0,
        least_used=0.99,
    ),
    Variant(
        "crowd",
        "100 callers who come again, cap worth 50 calls",
        calls=100,
        cap_calls=50,
        latency_ms=100,
        patience_s=20,
        least_used=0.95,
    ),
)
