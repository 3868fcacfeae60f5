"""One log for each module; each test that changes the warehouse works on a copy of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tallystream.settings import Settings, load
from tests.replay.shop import EVENTS, tally
from tests.servers import broker as servers


@pytest.fixture(scope="module")
def tallied(kafka_server, tmp_path_factory):
    """A TALLY_HOME whose log has been tallied to its end, with late events in it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("replay") / "home"
        for name in [n for n in os.environ if n.startswith("TALLY_")]:
            patch.delenv(name)
        patch.setenv("TALLY_HOME", str(folder))
        patch.setenv("TALLY_PARTITIONS", "2")
        patch.setenv("TALLY_LATENESS", "5")
        with servers.broker_of(folder, kafka_server) as made:
            # Told to the copies too, which have no embedded broker of their own.
            patch.setenv("TALLY_BOOTSTRAP_SERVERS", made.bootstrap)
            tally("generate", *EVENTS)
            tally("run", "--until-end")
            yield load()


@pytest.fixture
def home(tallied: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of the warehouse over the same log."""
    shutil.copytree(tallied.root, tmp_path / "home", ignore=shutil.ignore_patterns("broker", "run", "sandboxes"))
    monkeypatch.setenv("TALLY_HOME", str(tmp_path / "home"))
    return load()
