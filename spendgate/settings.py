"""Settings, read once from the environment by the process that needs them and passed down as plain values.

A name without a prefix is shared with other tools (PORT, REDIS_URL, DATABRICKS_…); ours begin with SPENDGATE_.
"""

import os
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import ConfigError


class Role(StrEnum):
    """What a process serves: the calls, the dashboard and jobs, or both."""

    ALL = "all"
    GATEWAY = "gateway"
    CONTROL = "control"


def _env(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """Every setting of `spendgate serve`. Secrets are read here and go nowhere but to their user."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", populate_by_name=True)

    host: Annotated[str, Field(validation_alias=_env("SPENDGATE_HOST"), description="address to listen on")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(validation_alias=_env("PORT"), ge=0, le=65535, description="port; 0: any")] = 8080
    role: Annotated[Role, Field(validation_alias=_env("SPENDGATE_ROLE"), description="all, gateway or control")] = (
        Role.ALL
    )
    workers: Annotated[
        int, Field(validation_alias=_env("SPENDGATE_WORKERS"), ge=1, le=128, description="worker processes")
    ] = 1
    data_dir: Annotated[
        Path, Field(validation_alias=_env("SPENDGATE_DATA_DIR"), description="folder of the embedded store")
    ] = Path(".spendgate")
    redis_url: Annotated[
        str | None,
        Field(validation_alias=_env("REDIS_URL"), description="Redis >= 7 or Valkey >= 7.2; unset: embedded Valkey"),
    ] = None
    namespace: Annotated[
        str,
        Field(validation_alias=_env("SPENDGATE_NAMESPACE"), pattern="^[A-Za-z0-9_-]{1,64}$", description="hash tag"),
    ] = "main"
    fsync: Annotated[
        str,
        Field(
            validation_alias=_env("SPENDGATE_FSYNC"),
            pattern="^(everysec|always)$",
            description="embedded store: when its log reaches the disk",
        ),
    ] = "everysec"
    valkey_bin: Annotated[
        Path | None, Field(validation_alias=_env("SPENDGATE_VALKEY_BIN"), description="the embedded store's binary")
    ] = None
    allow_unsafe_store: Annotated[
        bool,
        Field(
            validation_alias=_env("SPENDGATE_ALLOW_UNSAFE_STORE"),
            description="start on a store that evicts keys or keeps nothing on disk",
        ),
    ] = False
    admin_key: Annotated[
        str | None, Field(validation_alias=_env("SPENDGATE_ADMIN_KEY"), min_length=16, description="the admin key")
    ] = None
    routes: Annotated[
        Path | None, Field(validation_alias=_env("SPENDGATE_ROUTES"), description="routes file; unset: DBRX, Mixtral")
    ] = None
    prices: Annotated[
        Path | None, Field(validation_alias=_env("SPENDGATE_PRICES"), description="prices added to the list prices")
    ] = None
    budgets: Annotated[
        Path | None, Field(validation_alias=_env("SPENDGATE_BUDGETS"), description="YAML file of budgets")
    ] = None
    edge_config: Annotated[
        str | None, Field(validation_alias=_env("EDGE_CONFIG"), description="Edge Config URL of budgets")
    ] = None
    databricks_base_url: Annotated[
        str | None,
        Field(validation_alias=_env("DATABRICKS_BASE_URL"), description="workspace; unset: simulated Databricks"),
    ] = None
    budget_default_limit: Annotated[
        Decimal, Field(validation_alias=_env("BUDGET_DEFAULT_LIMIT"), ge=0, description="USD a day for every agent")
    ] = Decimal("10")
    budget_soft_cap: Annotated[
        Decimal, Field(validation_alias=_env("BUDGET_SOFT_CAP"), gt=0, le=1, description="fraction: Warned above it")
    ] = Decimal("0.8")
    budget_hard_cap: Annotated[
        Decimal, Field(validation_alias=_env("BUDGET_HARD_CAP"), ge=1, le=100, description="fraction: the hard cap")
    ] = Decimal("1.2")
    helicone_webhook_secret: Annotated[
        str | None, Field(validation_alias=_env("HELICONE_WEBHOOK_SECRET"), description="checks webhook signatures")
    ] = None
    webhook_agent: Annotated[
        str, Field(validation_alias=_env("SPENDGATE_WEBHOOK_AGENT"), description="agent that pays for foreign calls")
    ] = "helicone"
    lease_s: Annotated[
        float, Field(validation_alias=_env("SPENDGATE_LEASE_S"), ge=1, le=3600, description="a hold outlives its worker")
    ] = 30.0
    keep_holds_s: Annotated[
        int, Field(validation_alias=_env("SPENDGATE_KEEP_HOLDS_S"), ge=3600, description="ended holds are remembered")
    ] = 86_400
    call_timeout_s: Annotated[
        float, Field(validation_alias=_env("SPENDGATE_CALL_TIMEOUT_S"), gt=0, description="a call with its retries")
    ] = 290.0
    max_body_bytes: Annotated[
        int, Field(validation_alias=_env("SPENDGATE_MAX_BODY_BYTES"), ge=1024, description="largest request")
    ] = 4 * 1024 * 1024
    drain_s: Annotated[
        int, Field(validation_alias=_env("SPENDGATE_DRAIN_S"), ge=0, description="running calls may end after SIGTERM")
    ] = 30
    log_level: Annotated[
        str,
        Field(validation_alias=_env("SPENDGATE_LOG_LEVEL"), pattern="^(debug|info|warning|error)$", description="log"),
    ] = "warning"

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
