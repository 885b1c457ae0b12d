"""What must be true when a world has come to rest: of its holds, its workers, its clients, and the provider's bill."""

from budget.model import HoldStatus
from budget.policy import account_terms
from budget.verify import verify
from core.scope import Scope
from tests.simulation.books import Broken, insist
from tests.simulation.catalog import BOT, SMALL, SMALL_TOKEN_NANO, TEAM
from tests.simulation.client import Wish
from tests.simulation.loop import run_now
from tests.simulation.provider import Moods
from tests.simulation.worker import SimWorker
from tests.simulation.world import World

_LONGEST_PERIOD_S = 10.0
_DECIDED = (HoldStatus.SETTLED, HoldStatus.VOIDED)


def check_promises(world: World) -> None:
    """All of them.

    Raises:
        Broken: the first that was not kept.
    """
    _check_rest(world)
    _check_ends(world)
    _check_answers(world)
    _check_liveness(world)
    _check_rest(world)
    _check_bill(world)


def _check_rest(world: World) -> None:
    books = world.books
    open_holds = [(i, h) for i, h in books.memory.holds.items() if h.status is HoldStatus.HELD]
    insist(not open_holds, "no hold is left", open_holds)
    waiting = [r for w in world.workers for r in w.budgets.waiting]
    insist(not waiting, "no settlement is left", waiting)
    for worker in world.workers:
        insist(not worker.budgets.open_holds, "no worker renews what is over", worker.budgets.open_holds)
    books.check()
    books.check_states()
    result = run_now(verify(books.memory))
    insist(not result.drift, "verify is clean", result.drift)
    order = list(range(len(books.applied)))
    world.rng.shuffle(order)
    books.replay(order)
    for worker in (*world.workers, *world.past):
        _check_failures(worker)
    for stream in world.provider.streams:
        if not stream.owner_died():
            insist(stream.sent.closed_s is not None, "every stream is closed", stream.sent)


def _check_failures(worker: SimWorker) -> None:
    for task in worker.spawned:
        error = task.exception() if task.done() and not task.cancelled() else None
        foreseen = error is None or isinstance(error, OSError) or str(error) == "a bug in an adapter"
        if not foreseen and not worker.dead:
            raise Broken(f"nothing fails that nobody foresaw: {error!r} in {task.get_coro()}") from error


def _check_ends(world: World) -> None:
    """How a worker ended a hold is how it ended. Only the lease of one that crashed runs out for good."""
    holds = world.books.memory.holds
    for worker in (*world.workers, *world.past):
        for resolution in worker.journal.kept if worker.crashed else (*worker.line.decided, *worker.journal.kept):
            hold = holds.get(resolution.hold_id)
            if hold is None or hold.status not in _DECIDED:
                raise Broken(f"what was decided is done: {worker.name}, {resolution}, {hold}")
            insist(hold.trued or hold.cost_nano == resolution.cost_nano, "as it was decided", resolution, hold)
        for hold_id in worker.line.asked if not worker.crashed else ():
            known = holds.get(hold_id)
            insist(known is None or known.status in _DECIDED, "a living worker ends its holds", hold_id, known)


def _check_answers(world: World) -> None:
    """Whole answers under one Idempotency-Key, of one request, are one answer.

    But for a request that is cancelled at its last words: its key is free, and its client may have heard them.
    """
    answers: dict[tuple[object, ...], bytes] = {}
    for client in world.clients:
        wish = client.wish
        cancelled = client.task is not None and client.task.cancelling() > 0
        if wish.idempotency_key and client.status == 200 and client.complete and not cancelled:
            name = (wish.idempotency_key, wish.path, wish.scope, client.raw)
            first = answers.setdefault(name, bytes(client.body))
            insist(first == client.body, "a key has one answer", wish, first, bytes(client.body))


def _check_liveness(world: World) -> None:
    """A caller alone can use its cap to the last call that fits, and no further."""
    world.provider.moods = Moods(exact=True, slow_s=0.01)
    for worker in world.workers:
        worker.retire()
    world.past += world.workers
    world.workers = [world.start("alone", 0)]  # whose circuits are closed
    world.wait(1.0)
    world.wait(_LONGEST_PERIOD_S - world.loop.time() % _LONGEST_PERIOD_S)  # a new period would give new money
    for part in (4, 1, 1, 1):
        room_nano = _room_nano(world)
        tokens = max(1, (room_nano or 0) // SMALL_TOKEN_NANO // part)
        body = {"messages": [{"role": "user", "content": "x"}], "model": SMALL, "max_tokens": tokens}
        client = world.ask(Wish(body))
        world.loop.run_until(lambda c=client: c.complete or world.is_broken(), limit_s=30)  # type: ignore[misc]
        world.wait(0.0)
        fits = room_nano is not None and tokens * SMALL_TOKEN_NANO <= room_nano
        insist(client.status == (200 if fits else 402), "alone, it gets what fits", room_nano, tokens, client.body)
        if not fits:
            return
    raise Broken(f"a cap ends: {room_nano}")


def _room_nano(world: World) -> int | None:
    """What the budgets leave for one more call; None: no budget, no call."""
    now_ms, rooms_nano = world.store_clock.now_ms(), []
    for scope in (BOT, TEAM, Scope("model", SMALL)):
        for budget in world.workers[0].budgets.book.for_scope(scope):
            terms = account_terms(budget, scope, now_ms, 2)
            [row] = run_now(world.books.memory.balances([terms.id]))
            rooms_nano.append(terms.hard_nano - row.spent_nano - row.held_nano)
    return min(rooms_nano) if rooms_nano else None


def _check_bill(world: World) -> None:
    """The provider's bill against the books, call by call and cap by cap."""
    books, posted = world.books, world.books.posted_nano()
    basis = {e["hold"]: e["basis"] for e in books.memory.log if "basis" in e and e["type"] != "void"}
    billed: dict[str, int] = {}
    for attempt_id, sent in world.provider.sent.items():
        hold = books.memory.holds[attempt_id]
        insist(attempt_id in books.released, "every call has its event", sent)
        if basis.get(attempt_id) == "exact" and sent.said == "right":
            insist(posted[attempt_id] == sent.bill_nano, "the books are the bill", sent, hold)
        if not sent.over:
            insist(sent.bill_nano <= hold.amount_nano, "the bound holds", sent, hold)
        if sent.free:
            unheard = posted[attempt_id] == 0 or basis[attempt_id] == "unconfirmed"
            insist(unheard, "what was free is charged to nobody", sent, hold)
        least_nano = min(sent.bill_nano, hold.amount_nano - 1)  # a ceiling rounds up twice, a cost once
        insist(posted[attempt_id] >= least_nano, "nothing that was paid is forgotten", sent, hold)
        for account_id in hold.account_ids:
            billed[account_id] = billed.get(account_id, 0) + least_nano
    for account_id, bill_nano in billed.items():
        insist(bill_nano <= books.most_nano[account_id], "the bill is below the cap", account_id, bill_nano)
    for hold_id, nano in posted.items():
        if hold_id not in world.provider.sent and not hold_id.startswith("ext"):
            insist(nano == 0 or basis[hold_id] == "unconfirmed", "nothing is charged for no call", hold_id, nano)
    expired = [e for e in books.memory.log if e["type"] == "expire"]
    insist(world.climate.holds_may_expire or not expired, "no lease runs out for nothing", expired)
