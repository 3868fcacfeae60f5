"""The commands as other programs call them: exit codes, what goes to stdout, sentences instead of tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tallystream.cli.main import main
from tallystream.settings import PROJECT

ORDER = {
    "event_id": "o1", "event_type": "OrderCreated", "event_time": "2026-03-01T12:00:00Z", "order_id": "1",
    "customer_id": "u", "items": [{"product_id": "p", "quantity": 1, "unit_price_cents": 5}], "total_cents": 5, "currency": "EUR",
}  # fmt: skip


def tally(*args: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tallystream.cli", *args],
        cwd=PROJECT,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    return done


@pytest.fixture
def here(monkeypatch, capfd, home):
    """The same in this process, for calls that end before anything runs: a process costs a second of imports."""

    def call(*args: str, code: int, **environment: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["tally", *args])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        assert left.value.code == code, (args, left.value.code, out, err)
        return subprocess.CompletedProcess(args, code, out, err)

    return call


def produced(folder: Path, *events: dict[str, object]) -> str:
    path = folder / "orders.ndjson"
    path.write_text("".join(json.dumps(e) + "\n" for e in events))
    return str(path)


@pytest.mark.parametrize(
    "args",
    [
        ("no-such-command",),
        ("run", "--workers", "0"),
        ("run", "--views", "/no/such/folder"),
        ("produce",),
        ("replay", "--mode", "upside-down"),
        ("redrive", "early"),
        ("restore", "a", "--at", "2026-01-01"),
        ("restore", "--at", "yesterday"),
        ("sql", "--format", "xml", "SELECT 1"),
        ("generate",),
    ],
)
def test_wrong_usage_exits_with_2(here, args):
    assert here(*args, code=2).stderr


@pytest.mark.parametrize(
    ("args", "environment", "sentence"),
    [
        (("sql", "SELECT 1"), {}, "there is no warehouse"),
        (("restore",), {}, "no snapshot"),
        (("restore", "20260101T000000Z-000000"), {}, "has no snapshot"),
        (("produce", "/no/such/file", "--topic", "orders"), {}, "/no/such/file"),
        (("snapshot",), {"TALLY_OBJECT_STORE": "ftp://x"}, "say file:///absolute/folder"),
        (("snapshot",), {"TALLY_OBJECT_STORE": "file:///tmp/a#b"}, "write %3F or %23"),
        (("run", "--until-end"), {"TALLY_LATENESS": "-1"}, "TALLY_LATENESS"),
        (("run", "--until-end"), {"TALLY_LATENESS": "99999999999999999999"}, "TALLY_LATENESS"),
        (("run", "--until-end"), {"TALLY_LATENESS": "600", "TALLY_DEDUP_HORIZON": "1"}, "TALLY_DEDUP_HORIZON"),
        (("run", "--until-end"), {"TALLY_HOME": "/tmp/what?"}, "question mark"),
        (("produce", "{file}", "--topic", "orders"), {"TALLY_HOME": "/proc/nowhere"}, "TALLY_HOME"),
    ],
)
def test_what_can_be_mended_exits_with_1_and_one_sentence(here, tmp_path, args, environment, sentence):
    given = [a.format(file=produced(tmp_path, ORDER)) for a in args]
    told = here(*given, code=1, **environment)
    assert sentence in told.stderr and told.stdout == ""


def test_an_empty_home_is_one_that_is_not_set(tmp_path, home):
    done = subprocess.run(
        [sys.executable, "-m", "tallystream.cli", "sql", "SELECT 1"], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "TALLY_HOME": "", "PYTHONPATH": str(PROJECT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and f"{tmp_path.name}/.tally/tally.duckdb" in done.stderr


def test_a_home_that_is_a_file(tmp_path, home):
    (tmp_path / "file").write_text("")
    told = tally("run", "--until-end", code=1, TALLY_HOME=str(tmp_path / "file"))
    assert str(tmp_path / "file") in told.stderr


def test_a_warehouse_whose_making_was_cut_short(home):
    home.mkdir(parents=True)
    duckdb.connect(str(home / "tally.duckdb")).close()
    for args in (("sql", "SELECT 1"), ("snapshot",)):
        assert "cut short" in tally(*args, code=1).stderr


@pytest.mark.embedded
def test_a_first_day(settings, tmp_path):
    """Produce, run, ask; then what went wrong in other people's hands."""
    early = {**ORDER, "event_id": "o0", "order_id": "0", "event_time": "0001-01-01T00:00:01Z"}
    assert tally("produce", produced(tmp_path, early), "--topic", "orders").stdout == "published 1 events to orders\n"
    tally("run", "--until-end")
    # An event of the year 1 has a watermark before it.
    for lateness in ("600", "100000000000"):
        found = json.loads(tally("status", "--json", TALLY_LATENESS=lateness).stdout)
        assert sum(p["applied"] for p in found["partitions"]) == 1
    tally("produce", produced(tmp_path, ORDER), "--topic", "orders")
    done = tally("run", "--until-end", "--workers", "2", TALLY_LATENESS="100000000000")
    assert done.stdout == ""
    tally("status")
    commented = tally(
        "sql", "-f", "json", "-- of all orders\nSELECT count(*) AS n, 1.10::DECIMAL(3, 2) AS d FROM order_status"
    )
    assert json.loads(commented.stdout) == [{"n": 2, "d": 1.1}]
    assert "LINE 1" in tally("sql", "SELECT nothing FROM order_status", code=1).stderr
    piped = subprocess.run(
        [sys.executable, "-m", "tallystream.cli", "sql", "-f", "csv"], input="SELECT order_id FROM order_status ORDER BY 1",
        cwd=PROJECT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert piped.stdout == "order_id\n0\n1\n"
    for wrong in ("1=1) OR (1=1", "", "true; SELECT 1"):
        assert "nothing was changed" in tally("redrive", "late", "--where", wrong, code=1).stderr
    # A folder without views drops nothing; one with other views says what it drops.
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    assert "holds no view files" in tally("run", "--until-end", "--views", str(empty), code=1).stderr
    assert json.loads(tally("sql", "-f", "json", "SELECT count(*) AS n FROM order_status").stdout) == [{"n": 2}]
    other.mkdir()
    (other / "kinds.sql").write_text("SELECT event_type, count(*) AS n FROM orders GROUP BY ALL")
    told = tally("run", "--until-end", "--views", str(other)).stderr
    assert "view order_status was dropped" in told and "built anew" in told
    rows = json.loads(tally("sql", "-f", "json", "FROM kinds").stdout)
    assert rows == [{"event_type": "OrderCreated", "n": 2}]
