"""The simulator's own count of what it billed: the truth that a gateway's spend is checked against.

Failure policy: the count is exact in memory. With a path it is also written to a file, at most every 100 ms
and at shutdown, each time as a whole (temporary file, then rename), so the file is never half written; a
kill -9 loses at most the last 100 ms. A file that can't be read stops the start; one that can't be written is
logged at each failure and the count goes on.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from core.errors import ConfigError

_log = logging.getLogger(__name__)
_WRITE_EVERY_S = 0.1
_MAX_RECORDS = 100_000


@dataclass(slots=True)
class ModelBill:
    """Totals of a model. requests: all that named it, refused ones too. billed_requests: with tokens."""

    requests: int = 0
    billed_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class CallRecord:
    """One call, as a row of Databricks' usage table; tokens are those billed. status 0: never answered.

    at_ms: when it came, epoch milliseconds.
    """

    model: str
    client_request_id: str | None = None
    usage_context: Mapping[str, Any] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status: int = 0
    streamed: bool = False
    at_ms: int = 0


class Bill:
    """Counts calls and tokens, per model and per call."""

    def __init__(self, path: Path | None = None) -> None:
        """Start from the file, if there is one.

        Raises:
            ConfigError: the file is there but can't be read.
        """
        self._path = path
        self._timer: asyncio.TimerHandle | None = None
        self._records: deque[CallRecord] = deque(maxlen=_MAX_RECORDS)
        self._calls = 0
        self._models: dict[str, ModelBill] = {}
        if path is not None and path.exists():
            self._load(path)

    def received(self) -> None:
        """Count a call to any serving path, also one that is refused or names no known model."""
        self._calls += 1
        self._changed()

    def records(self) -> tuple[CallRecord, ...]:
        """The last calls, oldest first."""
        return tuple(self._records)

    def open(self, model: str, at_ms: int = 0) -> CallRecord:
        """Count a call to a model; the record is filled in while it is handled."""
        self._of(model).requests += 1
        record = CallRecord(model, at_ms=at_ms)
        self._records.append(record)
        return record

    def charge_prompt(self, record: CallRecord, tokens: int) -> None:
        """Bill a call's prompt; done once per call, before any of its output."""
        total = self._of(record.model)
        total.billed_requests += 1
        total.prompt_tokens += tokens
        record.prompt_tokens += tokens
        self._changed()

    def charge_output(self, record: CallRecord, tokens: int) -> None:
        """Bill output tokens that were generated."""
        self._of(record.model).completion_tokens += tokens
        record.completion_tokens += tokens
        self._changed()

    def reset(self) -> None:
        """Start again from zero."""
        self._records.clear()
        self._calls = 0
        self._models.clear()
        self._changed()

    def as_dict(self, recent: int = 0) -> dict[str, Any]:
        """The totals, and the last `recent` calls under ``client_request_ids`` if it is not 0."""
        bill: dict[str, Any] = {
            "models": {name: asdict(total) for name, total in sorted(self._models.items())},
            "calls": self._calls,
        }
        if recent:
            last = list(self._records)[-recent:]
            bill["client_request_ids"] = [asdict(record) for record in last]
        return bill

    def flush(self) -> None:
        """Write the file now, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._path is None:
            return
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(orjson.dumps(self.as_dict()))
            temporary.replace(self._path)
        except OSError as error:
            _log.error("the bill can't be written to %s: %s", self._path, error)

    def _of(self, model: str) -> ModelBill:
        total = self._models.get(model)
        if total is None:
            total = self._models[model] = ModelBill()
        return total

    def _changed(self) -> None:
        if self._path is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self.flush)

    def _load(self, path: Path) -> None:
        try:
            raw = orjson.loads(path.read_bytes())
            self._calls = int(raw["calls"])
            self._models = {name: ModelBill(**total) for name, total in raw["models"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"the simulator's bill {path} can't be read: {error}") from None
