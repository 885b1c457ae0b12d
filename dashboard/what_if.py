"""What-if: who answers, by role. The process fills these roles from the gateway and the ledger."""

from collections.abc import Sequence
from typing import Any, Protocol

from budget.dry_run import DryRun
from core.scope import Scope


class DryRuns(Protocol):
    """Tries calls without making them."""

    async def dry_run(
        self, *, key_id: str | None, scopes: Sequence[Scope], model: str | None, body: dict[str, Any], raw_bytes: int
    ) -> DryRun:
        """What would happen to a call now; nothing is held, sent or spent.

        key_id: of the agent key that would make it; None: only `scopes` pay. scopes: that its caller names.
        model: None: the routes' primary. body: OpenAI-shaped, without model. raw_bytes: size of the request.

        Raises:
            SpendgateError: it could not be made at all, with the reason that its caller would be given.
        """
        ...
