"""Every shape of view through the whole stream: one, two and three processes, killed and not, give the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tallystream.database import connect
from tallystream.settings import Settings
from tallystream.topics.client import kafka_config
from tallystream.views.loader import load_views
from tallystream.views.plan import quote
from tests.oracle.batch import compare_with_batch
from tests.oracle.books import keep
from tests.views.shapes import SHAPES

from .killed import tally
from .shop import Shop, publish

# (processes, failpoint of each start until one lives)
RUNS = {
    "one": (1, []),
    "two, killed in its commits": (2, ["commit.inside_merge:3", "commit.before_commit", "commit.after_commit"]),
    "three": (3, []),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "views"
    made.mkdir()
    for name, (sql, _) in SHAPES.items():
        (made / f"{name}.sql").write_text(sql)
    return made


def rows_of(home: Path, names: list[str]) -> dict[str, list[str]]:
    with connect(home / "tally.duckdb", read_only=True) as con:
        return {n: sorted(map(repr, con.execute(f"FROM main.{quote(n)}").fetchall())) for n in names}


def test_the_number_of_processes_and_kills_change_no_cell(fresh_topics, folder, tmp_path):
    settings, shop = fresh_topics(3), Shop(31)
    for _ in range(4):
        publish(settings, shop, 300)
    told, plans = {}, load_views(folder)
    for number, (name, (workers, kills)) in enumerate(RUNS.items()):
        home = tmp_path / f"run{number}"
        where = {"TALLY_HOME": str(home), "TALLY_BOOTSTRAP_SERVERS": kept_address(settings), "TALLY_EPOCH_MS": "50"}
        run = ["run", "--until-end", "--views", str(folder), "--workers", str(workers)]
        for place in kills or [""]:
            # The supervisor takes the failpoint away and starts anew: a killed run lives to its end all the same.
            done = tally(*run, **where, **({"TALLY_FAILPOINT": place} if place else {}))
            assert done.returncode == 0, (name, place, done.stderr)
            assert ("restarting" in done.stderr) == bool(place), (place, done.stderr)
            if place != (kills or [""])[-1]:
                (home / "tally.duckdb").unlink()
        told[name] = rows_of(home, list(plans))
    first = told["one"]
    # This shop's orders have no items, and its clicks no brands.
    assert {n for n, rows in first.items() if not rows} <= {"item_hop", "session_split"}
    for name, rows in told.items():
        assert rows == first, name
    events = {
        t: [e for account in by.values() for e in account.applied if e["event_type"] != "heartbeat"]
        for t, by in keep(settings).items()
    }
    with connect(tmp_path / "run1" / "tally.duckdb", read_only=True) as con:
        compare_with_batch(con, plans, events)
    # The same log at two paces: a replay differs in nothing, however slow.
    for pace in ([], ["--rate", "400"]):
        found = tally(
            "replay", "--mode", "diff", "--json", *pace,
            TALLY_HOME=str(tmp_path / "run2"), TALLY_BOOTSTRAP_SERVERS=kept_address(settings),
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["changes"] == []


def kept_address(settings: Settings) -> str:
    """The broker's address for homes that have none of their own."""
    return os.environ.get("TALLY_BOOTSTRAP_SERVERS") or str(kafka_config(settings)["bootstrap.servers"])
