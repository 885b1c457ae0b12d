"""A process that appends without end, to be killed."""

from itertools import count
from multiprocessing.synchronize import Event

from tests.ledger.engines import ENGINES
from tests.ledger.events import Stream

BATCH = 60


def stream_of(sequence: int) -> Stream:
    """The events that `append_for_ever` writes, always the same, at least so many."""
    stream = Stream()
    for n in count():
        if len(stream.events) >= sequence:
            return stream
        call = stream.hold(f"agent{n % 5}")
        if n % 4:
            stream.settle(call)
        else:
            stream.expire(call)
        stream.now_ms += 60_000
    raise AssertionError


def append_for_ever(engine: str, location: str, done: Event) -> None:
    """Append batches after what is there; `done` is set after the first."""
    store = ENGINES[engine](location)
    while True:
        position = store.position()
        store.append(stream_of(position.sequence + BATCH).batch(position, BATCH))
        done.set()
