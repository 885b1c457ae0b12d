"""Events of a made-up company: 100 agents in 10 teams, who call three models; every tenth call is downgraded."""

from collections.abc import Iterator

from tests.ledger.events import Stream

AGENTS, TEAMS = 100, 10
MODELS = ("dbrx", "mixtral", "sonnet")
_PROVIDERS = {"dbrx": "Databricks", "mixtral": "Databricks", "sonnet": "Anthropic"}

Events = list[tuple[str, dict[str, str]]]


def batches(stream: Stream, events: int, batch: int) -> Iterator[Events]:
    """Calls that are held and settled, in batches of so many events."""
    number = 0
    for _ in range(events // batch):
        while len(stream.events) < batch:
            number += 1
            _call(stream, number)
        yield stream.take()


def _call(stream: Stream, number: int) -> None:
    agent, model = number % AGENTS, MODELS[number % len(MODELS)]
    downgraded = number % 10 == 0
    asked = "dbrx" if downgraded else model
    served = "mixtral" if downgraded else model
    tokens = {"input": 200 + agent, "cached_input": number % 3, "output": 50 + agent}
    call = stream.hold(f"agent{agent}", f"team{agent % TEAMS}", model=asked)
    stream.settle(
        call,
        model=served,
        provider=_PROVIDERS[served],
        tokens=tokens,
        state="Degraded" if downgraded else "Active",
        lasted_ms=1,
    )
