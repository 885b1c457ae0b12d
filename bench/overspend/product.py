"""What the experiment asks of a gateway."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from bench.overspend.variants import Harm, Variant


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a gateway's books say was spent.

    by_basis: how the amount is known (``exact``, ``estimated``, ``unconfirmed``); one entry if it does not say.
    exact_ids: calls charged exactly, by the id that the upstream knows them by, with their amounts.
    """

    nano: int
    by_basis: Mapping[str, int] = field(default_factory=dict)
    exact_ids: Mapping[str, int] = field(default_factory=dict)


class Target(Protocol):
    """A gateway that runs, with one cap. headers: what a caller sends."""

    chat_url: str
    headers: dict[str, str]

    def harm(self, kind: Harm) -> None:
        """Stop the store, or kill the gateway."""

    def mend(self, kind: Harm) -> None:
        """Let the store go on, or have the gateway serve again."""

    def wait_settled(self) -> None:
        """Return when the books are final."""

    def recorded(self) -> Recorded:
        """What the books say."""


class Product(Protocol):
    """A gateway that can be started for a variant."""

    name: str

    def version(self) -> str:
        """As it names itself."""

    def missing(self) -> str | None:
        """Why it can't run here; None if it can."""

    def run(self, upstream_url: str, variant: Variant, cap_nano: int) -> AbstractContextManager[Target]:
        """Start it with this cap."""
