"""What the environment says: where to write, which broker, how late is late."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tallystream.errors import SettingsError

PROJECT = Path(__file__).resolve().parents[1]
TOPICS = ("orders", "clicks")
# The event_type that says what time it is, and nothing else: it moves the watermark and reaches no view.
HEARTBEAT = "heartbeat"
KAFKA_PREFIX = "TALLY_KAFKA_"
LONGEST = 10**11  # seconds: 3,000 years, and far from an overflow in microseconds


class Settings(BaseSettings):
    """All settings, read from TALLY_* variables. Times are seconds."""

    # An empty variable is one that is not set: an empty TALLY_HOME would be the folder one happens to stand in.
    model_config = SettingsConfigDict(env_prefix="TALLY_", frozen=True, extra="ignore", env_ignore_empty=True)
    # Whether a client that finds no embedded broker starts one.
    starts_broker: ClassVar[bool] = True

    home: Path = Path(".tally")
    bootstrap_servers: str | None = None
    schema_registry_url: str | None = None
    lateness: int = Field(600, ge=0, le=LONGEST)
    dedup_horizon: int | None = Field(None, ge=0, le=LONGEST)
    max_ahead: int = Field(3600, ge=0, le=LONGEST)
    object_store: str | None = None
    partitions: int = Field(4, ge=1, le=1024)
    epoch_ms: int = Field(250, ge=10, le=60_000)
    mirror_ms: int | None = Field(None, ge=0, le=3_600_000)

    @field_validator("home")
    @classmethod
    def _home_can_be_opened(cls, home: Path) -> Path:
        # DuckDB takes what follows a question mark for options of the file.
        if "?" in str(home):
            raise ValueError(f"{home} has a question mark in it, which DuckDB cannot open; take another folder")
        return home

    @model_validator(mode="after")
    def _horizon_covers_lateness(self) -> Settings:
        # Below the lateness, a copy could be neither late nor known, and would count twice.
        if self.dedup_horizon is not None and self.dedup_horizon < self.lateness:
            raise ValueError(
                f"TALLY_DEDUP_HORIZON is {self.dedup_horizon} s and below TALLY_LATENESS ({self.lateness} s): "
                "a copy could then count twice; raise the horizon or lower the lateness"
            )
        return self

    @property
    def horizon(self) -> int:
        """How long an event_id is remembered, in seconds; never below the lateness."""
        return max(3600, self.lateness) if self.dedup_horizon is None else self.dedup_horizon

    @property
    def mirror_seconds(self) -> float:
        """Between two commits of offsets to the consumer group, for lag tools: as Kafka's own auto.commit.interval.ms.

        The embedded broker writes its whole log anew after each change: with millions of events half of two cores.
        """
        if self.mirror_ms is not None:
            return self.mirror_ms / 1000
        return 5.0 if self.bootstrap_servers else 60.0

    @cached_property
    def root(self) -> Path:
        """TALLY_HOME, absolute."""
        return self.home.expanduser().resolve()

    @property
    def warehouse(self) -> Path:
        """The DuckDB file."""
        return self.root / "tally.duckdb"

    @property
    def run_dir(self) -> Path:
        """Locks, addresses and tokens of what runs now."""
        return self.root / "run"

    @property
    def broker_dir(self) -> Path:
        """The embedded broker's data, log and address."""
        return self.root / "broker"

    @property
    def store_url(self) -> str:
        """Where archives and snapshots go: file:// under TALLY_HOME unless TALLY_OBJECT_STORE says."""
        return self.object_store or f"file://{self.root / 'store'}"

    @property
    def kafka_options(self) -> dict[str, str]:
        """Kafka client options passed through: TALLY_KAFKA_SASL_USERNAME=x becomes sasl.username=x."""
        return {
            name[len(KAFKA_PREFIX) :].lower().replace("_", "."): value
            for name, value in os.environ.items()
            if name.startswith(KAFKA_PREFIX)
        }


class GuestSettings(Settings):
    """For who looks at a stream and must not keep it up: the embedded broker is used where it runs, never started.

    A run of Dagster that outlived its `tally up` started the broker anew, and nobody was left to stop it.
    """

    starts_broker: ClassVar[bool] = False


def load(kind: type[Settings] = Settings) -> Settings:
    """Reads the environment.

    Raises:
        SettingsError: a variable is malformed, with its name and what is allowed.
    """
    try:
        return kind()
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = "".join(f"TALLY_{part}".upper() for part in item["loc"][:1])
            told = item["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {told}" if name else told)
        raise SettingsError("; ".join(problems)) from None
