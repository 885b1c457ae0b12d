"""One variant against one gateway: start it, let the crowd at it, compare its books with the upstream's bill.

1. The upstream is told what to do, and its bill is emptied.
2. The gateway is started with a cap worth `cap_calls` calls, at the upstream's prices.
3. All callers come; where the variant says so, the store or the gateway is stopped once calls are in flight.
4. When the upstream has answered all and the gateway's books are final, both are read.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.overspend.crowd import run_crowd
from bench.overspend.product import Product, Recorded, Target
from bench.overspend.upstream import BilledCall, Upstream, call_nano
from bench.overspend.variants import Variant

_HARM_AT_IN_FLIGHT = 3
_HARM_S = 2.0
_LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it.

    let_through: calls that the upstream billed. answers: what the callers heard last.
    largest_nano: the most that was billed and being answered at one time; None for streams, whose parts are billed.
    exact_agrees: each call that the books call exact is charged what the upstream billed; None if there is none.
    """

    variant: Variant
    product: str
    cap_nano: int
    let_through: int
    billed_nano: int
    recorded: Recorded
    largest_nano: int | None
    exact_agrees: bool | None
    answers: dict[str, int]

    @property
    def bill_to_cap(self) -> float:
        """Above 1 is overspent."""
        return self.billed_nano / self.cap_nano

    @property
    def recorded_to_bill(self) -> float | None:
        """Below 1 is money that the gateway does not know of; None if nothing was billed."""
        return self.recorded.nano / self.billed_nano if self.billed_nano else None

    @property
    def broken_promise(self) -> str | None:
        """What a gateway that keeps budgets must not do, and did."""
        if self.bill_to_cap > 1 and not self.variant.may_exceed:
            return f"the bill is {self.bill_to_cap:.2f} of the cap"
        if self.exact_agrees is False:
            return "an exact charge is not what the upstream billed"
        if self.variant.least_used is not None and self.bill_to_cap < self.variant.least_used:
            return f"only {self.bill_to_cap:.3f} of the cap could be used"
        return None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all numbers, and the ratios."""
        ratios = {"bill_to_cap": self.bill_to_cap, "recorded_to_bill": self.recorded_to_bill}
        return asdict(self) | ratios | {"broken_promise": self.broken_promise}


def run_variant(product: Product, upstream: Upstream, variant: Variant) -> Result:
    """Run it; needs a few seconds."""
    upstream.prepare(variant)
    cap_nano = variant.cap_calls * call_nano(variant.worth_tokens)
    with product.run(upstream.base_url, variant, cap_nano) as target:
        answers, seen = asyncio.run(_run(target, upstream, variant))
        upstream.wait_idle()
        target.wait_settled()
        recorded = target.recorded()
    calls = [call for call in upstream.calls() if call.answered]
    return Result(
        variant=variant,
        product=product.name,
        cap_nano=cap_nano,
        let_through=len(calls),
        billed_nano=sum(call.nano for call in calls),
        recorded=recorded,
        largest_nano=None if variant.hangs_up else max(seen, default=0),
        exact_agrees=_exact_agrees(recorded, calls),
        answers=dict(answers),
    )


async def _run(target: Target, upstream: Upstream, variant: Variant) -> tuple[Counter[str], list[int]]:
    seen: list[int] = []
    tokens = variant.worth_tokens if variant.obeys_max_tokens else variant.answer_tokens
    watching = asyncio.create_task(upstream.watch_largest(call_nano(tokens), seen))
    harming = asyncio.create_task(_harm(target, upstream, variant))
    try:
        answers = await run_crowd(target, variant)
        await harming
    finally:
        for task in (watching, harming):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return answers, seen


async def _harm(target: Target, upstream: Upstream, variant: Variant) -> None:
    """Do it when calls are in flight: what they cost is not posted yet."""
    if variant.harm is None:
        return
    while await asyncio.to_thread(upstream.in_flight) < _HARM_AT_IN_FLIGHT:
        await asyncio.sleep(_LOOK_EVERY_S)
    await asyncio.to_thread(target.harm, variant.harm)
    await asyncio.sleep(_HARM_S)
    await asyncio.to_thread(target.mend, variant.harm)


def _exact_agrees(recorded: Recorded, calls: Sequence[BilledCall]) -> bool | None:
    if not recorded.exact_ids:
        return None
    billed = {call.id: call.nano for call in calls}
    return all(billed.get(id) == nano for id, nano in recorded.exact_ids.items())
