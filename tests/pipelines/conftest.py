"""A live stream on a broker of its own, and a Dagster instance in memory: one for each test module that asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tallystream import settings as environment
from tallystream.settings import Settings
from tallystream.warehouse.status import collect
from tests.servers import broker as servers

ENVIRONMENT = {"TALLY_PARTITIONS": "2", "TALLY_LATENESS": "60", "TALLY_EPOCH_MS": "100"}


@dataclass
class Plant:
    """A TALLY_HOME with a broker, and a stream that a test may stop and start."""

    settings: Settings
    stream: subprocess.Popen[bytes] | None = None

    def tally(self, *arguments: str) -> str:
        """Runs a command; its standard output."""
        done = subprocess.run([sys.executable, "-m", "tallystream.cli", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def generate(self, events: int, seed: int, *more: str) -> None:
        """Events of the synthetic shop, with copies and disorder."""
        told = ["--events", str(events), "--seed", str(seed), "--duplicates", "0.02", "--disorder", "20", *more]
        self.tally("generate", *told)

    def start(self) -> None:
        """Starts the stream and waits until it has tallied all."""
        log = (self.settings.root.parent / "stream.log").open("ab")
        self.stream = subprocess.Popen([sys.executable, "-m", "tallystream.cli", "run"], stdout=log, stderr=log)
        self.settle()

    def stop(self) -> None:
        """Ends the stream in good order."""
        if self.stream is not None:
            self.stream.terminate()
            assert self.stream.wait(servers.PATIENCE) == 0
            self.stream = None

    def settle(self) -> dict[str, Any]:
        """Waits until nothing waits; the status then."""
        deadline = time.monotonic() + servers.PATIENCE
        while True:
            found = collect(self.settings)
            if found["last_commit"] and not any(p["lag"] for p in found["partitions"]):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


@pytest.fixture(scope="module")
def plant(kafka_server: servers.Kafka | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """20 000 events tallied by a live stream; windows of the first minutes are final, and sessions of two hours ago."""
    home: Path = tmp_path_factory.mktemp("plant") / "home"
    with pytest.MonkeyPatch.context() as patch, servers.broker_of(home, kafka_server) as made:
        for name in [n for n in os.environ if n.startswith(("TALLY_", "AWS_", "DAGSTER_"))]:
            patch.delenv(name)
        for name, value in {**ENVIRONMENT, "TALLY_HOME": str(home)}.items():
            patch.setenv(name, value)
        if made.settings.bootstrap_servers:
            patch.setenv("TALLY_BOOTSTRAP_SERVERS", made.settings.bootstrap_servers)
        assert made.bootstrap
        found = Plant(environment.load())
        try:
            ago = datetime.now(UTC) - timedelta(hours=2)
            found.generate(2000, 4, "--start", f"{ago:%Y-%m-%dT%H:%M:%SZ}")
            found.generate(20_000, 5, "--malformed", "12")
            found.start()
            yield found
        finally:
            if found.stream is not None:
                found.stream.terminate()
                found.stream.wait(servers.PATIENCE)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """Runs and events in memory."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made
