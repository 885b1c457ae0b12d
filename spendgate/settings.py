"""Settings, read once from the environment by the process that needs them and passed down as plain values.

A name without a prefix is shared with other tools (PORT, REDIS_URL, DATABRICKS_…); ours begin with SPENDGATE_.
"""

import os
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import ConfigError


class Role(StrEnum):
    """What a process serves: the calls, the dashboard and jobs, or both."""

    ALL = "all"
    GATEWAY = "gateway"
    CONTROL = "control"


def _env(name: str, description: str, **rules: Any) -> Any:
    return Field(validation_alias=AliasChoices(name), description=description, **rules)


class Settings(BaseSettings):
    """Every setting of `spendgate serve`. Secrets are read here and go nowhere but to their user."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", populate_by_name=True)

    host: Annotated[str, _env("SPENDGATE_HOST", "address to listen on")] = "127.0.0.1"
    port: Annotated[int, _env("PORT", "port; 0 takes a free one", ge=0, le=65535)] = 8080
    role: Annotated[Role, _env("SPENDGATE_ROLE", "what to serve: all, gateway or control")] = Role.ALL
    workers: Annotated[int, _env("SPENDGATE_WORKERS", "worker processes", ge=1, le=128)] = 1
    drain_s: Annotated[int, _env("SPENDGATE_DRAIN_S", "seconds for running calls after SIGTERM", ge=0)] = 30
    log_level: Annotated[
        str,
        _env(
            "SPENDGATE_LOG_LEVEL",
            "debug, info, warning or error; JSON lines on stderr",
            pattern="^(debug|info|warning|error)$",
        ),
    ] = "warning"

    redis_url: Annotated[
        str | None, _env("REDIS_URL", "Redis >= 7 or Valkey >= 7.2, see [operations](operations.md); unset: embedded")
    ] = None
    namespace: Annotated[
        str,
        _env("SPENDGATE_NAMESPACE", "deployments with different ones share nothing", pattern="^[A-Za-z0-9_-]{1,64}$"),
    ] = "main"
    allow_unsafe_store: Annotated[
        bool, _env("SPENDGATE_ALLOW_UNSAFE_STORE", "start on a store that evicts keys or keeps nothing on disk")
    ] = False
    wait_replicas: Annotated[
        int,
        _env("SPENDGATE_WAIT_REPLICAS", "replicas that must have a hold before its call leaves (WAIT)", ge=0, le=16),
    ] = 0
    wait_fsync: Annotated[
        bool, _env("SPENDGATE_WAIT_FSYNC", "a hold must be on disk before its call leaves (WAITAOF)")
    ] = False
    wait_ms: Annotated[
        int, _env("SPENDGATE_WAIT_MS", "milliseconds that they may take; then the call is refused", ge=1, le=1500)
    ] = 500
    data_dir: Annotated[Path, _env("SPENDGATE_DATA_DIR", "folder of the embedded store")] = Path(".spendgate")
    fsync: Annotated[
        str,
        _env(
            "SPENDGATE_FSYNC",
            "embedded store: everysec, or always (no write is lost in a power cut)",
            pattern="^(everysec|always)$",
        ),
    ] = "everysec"
    valkey_bin: Annotated[Path | None, _env("SPENDGATE_VALKEY_BIN", "the embedded store's program")] = None

    admin_key: Annotated[
        str | None, _env("SPENDGATE_ADMIN_KEY", "the admin key; unset: made at the first start", min_length=16)
    ] = None
    routes: Annotated[Path | None, _env("SPENDGATE_ROUTES", "routes file; unset: DBRX, then Mixtral")] = None
    prices: Annotated[Path | None, _env("SPENDGATE_PRICES", "prices beside the list prices that ship")] = None
    databricks_base_url: Annotated[
        str | None, _env("DATABRICKS_BASE_URL", "the workspace's host; unset: simulated Databricks")
    ] = None
    call_timeout_s: Annotated[float, _env("SPENDGATE_CALL_TIMEOUT_S", "seconds for a call with its retries", gt=0)] = (
        290.0
    )
    stream_timeout_s: Annotated[
        float, _env("SPENDGATE_STREAM_TIMEOUT_S", "seconds for a whole stream, however steadily it comes", gt=0)
    ] = 1800.0
    abort_drain_s: Annotated[
        float, _env("SPENDGATE_ABORT_DRAIN_S", "seconds that `on_abort: drain` reads an answer nobody waits for", gt=0)
    ] = 30.0
    abort_drain_bytes: Annotated[
        int, _env("SPENDGATE_ABORT_DRAIN_BYTES", "bytes of a stream that it reads at most", ge=1024)
    ] = 16_777_216
    client_timeout_s: Annotated[
        float,
        _env(
            "SPENDGATE_CLIENT_TIMEOUT_S",
            "seconds that a client has for its headers, for its body, and to take a piece of its answer",
            gt=0,
        ),
    ] = 60.0
    max_body_bytes: Annotated[int, _env("SPENDGATE_MAX_BODY_BYTES", "largest request, bytes", ge=1024)] = 4194304

    budget_default_limit: Annotated[Decimal, _env("BUDGET_DEFAULT_LIMIT", "US dollars a day for every agent", ge=0)] = (
        Decimal("10")
    )
    budget_soft_cap: Annotated[Decimal, _env("BUDGET_SOFT_CAP", "of the limit; Warned above it", gt=0, le=1)] = Decimal(
        "0.8"
    )
    budget_hard_cap: Annotated[
        Decimal, _env("BUDGET_HARD_CAP", "of the limit; nothing is spent beyond it", ge=1, le=100)
    ] = Decimal("1.2")
    budgets: Annotated[Path | None, _env("SPENDGATE_BUDGETS", "YAML file of budgets")] = None
    edge_config: Annotated[str | None, _env("EDGE_CONFIG", "Edge Config URL of budgets, polled")] = None
    lease_s: Annotated[float, _env("SPENDGATE_LEASE_S", "seconds that a hold outlives its worker", ge=1, le=3600)] = (
        30.0
    )
    keep_holds_s: Annotated[
        int, _env("SPENDGATE_KEEP_HOLDS_S", "seconds that an ended hold is remembered", ge=3600)
    ] = 86_400

    ledger: Annotated[
        str, _env("SPENDGATE_LEDGER", "embedded (DuckDB in the data folder), off, or a ClickHouse URL")
    ] = "embedded"
    ledger_memory_mib: Annotated[
        int, _env("SPENDGATE_LEDGER_MEMORY_MIB", "embedded ledger: memory that it may use, MiB", ge=128)
    ] = 1024
    ledger_keep_events_days: Annotated[
        int, _env("SPENDGATE_LEDGER_KEEP_EVENTS_DAYS", "days that the ledger keeps raw events", ge=1)
    ] = 90
    ledger_keep_calls_days: Annotated[
        int, _env("SPENDGATE_LEDGER_KEEP_CALLS_DAYS", "days that it keeps single calls; sums and costs stay", ge=1)
    ] = 400
    ledger_compact_every_s: Annotated[
        float,
        _env(
            "SPENDGATE_LEDGER_COMPACT_EVERY_S",
            "seconds between two compactions: the sums of many batches are merged, what is too old is forgotten",
            ge=10,
        ),
    ] = 600.0
    stream_keep_s: Annotated[
        float,
        _env("SPENDGATE_STREAM_KEEP_S", "seconds that the store keeps events that are in the ledger already", ge=10),
    ] = 600.0

    verify_every_s: Annotated[
        float, _env("SPENDGATE_VERIFY_EVERY_S", "seconds between two verifications of the books; 0: never", ge=0)
    ] = 60.0

    helicone_webhook_secret: Annotated[
        str | None, _env("HELICONE_WEBHOOK_SECRET", "checks the signature of webhooks")
    ] = None
    webhook_agent: Annotated[
        str, _env("SPENDGATE_WEBHOOK_AGENT", "the agent that pays for webhook calls which name nobody")
    ] = "helicone"

    @property
    def on_loopback(self) -> bool:
        """True if only this machine can reach the gateway."""
        return self.host in ("127.0.0.1", "localhost", "::1")


def read_settings(given: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process. given: values of the command line by their variable's name; they win, and are
    put into the environment for the children.

    Raises:
        ConfigError: names the variable and the rule.
    """
    os.environ.update(given or {})
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}") from None
