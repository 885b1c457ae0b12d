"""Calls as Helicone exports them: JSON lines, one request each.

Read are `request_id`, `request_created_at`, `model`, `status`, `prompt_tokens`, `completion_tokens` and `cost_usd`. A
line that is not of a call is refused by its number; nothing is fetched.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from collectors.errors import UsageUnavailable
from core.errors import InvalidInput
from core.ids import uuid_to_id
from core.money import parse_usd_nano
from ledger.ports import Interval
from ledger.reconcile import ProviderCall


@dataclass(slots=True)
class HeliconeExport:
    """Reads one exported file."""

    path: Path

    name = "helicone"

    async def calls(self, interval: Interval) -> AsyncIterator[ProviderCall]:
        """The calls of an interval, in the file's order.

        Raises:
            UsageUnavailable: the file can't be read, or a line is not of a call.
        """
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    call = _call(line, f"{self.path}, line {number}")
                    if interval.start_ms <= call.at_ms < interval.end_ms:
                        yield call
        except OSError as error:
            raise UsageUnavailable(f"{self.path} can't be read: {error.strerror}") from None


def _call(line: bytes, where: str) -> ProviderCall:
    try:
        data = orjson.loads(
            line,
        )
        request_id, at = data["request_id"], datetime.fromisoformat(data["request_created_at"])
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        cost = data.get("cost_usd")
        return ProviderCall(
            attempt_id=uuid_to_id("hld", request_id) or request_id,
            at_ms=round(at.timestamp() * 1000),
            model=data.get("model") or "",
            accepted=data.get("status", 200) == 200,
            input_tokens=_count(data, "prompt_tokens"),
            output_tokens=_count(data, "completion_tokens"),
            cost_nano=None if cost is None else parse_usd_nano("cost_usd", Decimal(str(cost))),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, InvalidInput) as error:
        raise UsageUnavailable(f"{where} is not a request of Helicone's export: {error}") from None


def _count(data: dict[str, Any], name: str) -> int:
    return int(data.get(name) or 0)
