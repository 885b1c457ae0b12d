"""What the benchmark asks of a gateway."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from bench.speed.tools import Upstream, http_request

MODEL = "bench-model"
MAX_TOKENS = 64
PROMPT = (
    "Summarise in two sentences why a budget has to be held before a call leaves, and what happens to the part of it "
    "that the call did not use, please."
)


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway that runs.

    pids: the processes that serve; they are pinned, and their processor time is what a call costs.
    helpers: processes that serve them, such as a store; their time is told apart.
    headers: of every call.
    callers: other rows of headers, by a name for the row; the calls of a measurement take them in turn.
    spread: it is about several workers: they are not pinned to one core, and only their processor time is measured.
    """

    address: str
    pids: list[int]
    helpers: list[int] = field(default_factory=list)
    path: str = "/v1/chat/completions"
    model: str = MODEL
    headers: Mapping[str, str] = field(default_factory=dict)
    callers: Mapping[str, list[dict[str, str]]] = field(default_factory=dict)
    spread: bool = False

    def requests(self, *, stream: bool = False, callers: str | None = None) -> list[bytes]:
        """The calls of a measurement, as bytes."""
        body: dict[str, object] = {"model": self.model, "messages": [{"role": "user", "content": PROMPT}]}
        body |= {"max_tokens": MAX_TOKENS} | ({"stream": True} if stream else {})
        rows = [{}] if callers is None else self.callers[callers]
        return [http_request(self.address, self.path, {**self.headers, **row}, body) for row in rows]


class Contestant(Protocol):
    """A gateway that can be started.

    budgets: what it does about money in this run.
    """

    name: str
    budgets: str

    def version(self) -> str:
        """As it names itself."""

    def missing(self) -> str | None:
        """Why it can't run here; None if it can."""

    def install(self) -> None:
        """Make its environment under `.bench/`."""

    def run(self, upstream: Upstream) -> AbstractContextManager[Serving]:
        """Start one worker in front of the upstream, with as little besides as it allows."""
