"""Four clients read while a stream commits: whole commits only, and nothing but reads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import httpx
import pytest

from tallystream.database import connect
from tallystream.errors import QueryError
from tallystream.settings import PROJECT
from tallystream.warehouse.extensions import load_extensions
from tallystream.warehouse.live import live_file
from tallystream.warehouse.read import open_reader
from tests.recovery.killed import compare_all, stream, tally
from tests.recovery.shop import Publishing, Shop, publish
from tests.servers.broker import PATIENCE, until

# Every applied order is one event of order_status, and every applied click one click of clicks_per_minute.
TORN = """
SELECT (SELECT coalesce(sum(events), 0) FROM order_status) = (SELECT sum(applied) FROM ledger.offsets WHERE topic = 'orders'),
  (SELECT coalesce(sum(clicks), 0) FROM clicks_per_minute) = (SELECT sum(applied) FROM ledger.offsets WHERE topic = 'clicks'),
  (SELECT sum(consumed) FROM ledger.offsets) = (SELECT coalesce(sum(consumed), 0) FROM ledger.commits),
  (SELECT sum(consumed)::BIGINT FROM ledger.offsets)
"""
REFUSED = (
    "INSERT INTO late_events SELECT * FROM late_events",
    "DELETE FROM order_status",
    "UPDATE ledger.offsets SET next_offset = 0",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW order_status",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW order_status",
    "PRAGMA database_list",
    "PRAGMA table_info('order_status')",
    "SET threads = 1",
    "RESET threads",
    "INSTALL httpfs",
    "LOAD httpfs",
    "ATTACH 'x.duckdb'",
    "DETACH tally",
    "USE memory",
    "COPY order_status TO 'x.csv'",
    "COPY order_status FROM 'x.csv'",
    "EXPORT DATABASE 'x'",
    "IMPORT DATABASE '/etc'",
    "CHECKPOINT",
    "BEGIN",
    "CALL quack_stop('quack:127.0.0.1:1')",
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_csv('/etc/hostname')",
    "SELECT * FROM glob('/etc/*')",
    "FROM 'x.csv'",
    "FROM '/etc/hostname'",
    "SELECT getenv('HOME')",
    "SELECT current_setting('threads')",
    "FROM duckdb_settings()",
    "FROM duckdb_secrets()",
    "SELECT * FROM query('SELECT 1')",
    "EXPLAIN ANALYZE DELETE FROM late_events",
    "SELECT (SELECT content FROM read_text('/etc/hostname'))",
    "WITH x AS (FROM read_blob('/etc/hostname')) FROM x",
)


def served(settings) -> bool:
    return live_file(settings).exists()


def test_four_clients_see_whole_commits_only(fresh_topics):
    settings, shop = fresh_topics(2), Shop(11)
    publish(settings, shop, 300)
    seen: list[set[int]] = [set() for _ in range(4)]
    torn: list[object] = []
    over = threading.Event()

    def read(number: int) -> None:
        try:
            with open_reader(settings) as reader:
                while not over.is_set():
                    assert reader.live
                    row = reader.rows(TORN)[2][0]
                    if row[:3] != (True, True, True):
                        torn.append(row)
                    seen[number].add(row[3])
        except BaseException as error:
            torn.append(error)

    with stream() as running, Publishing(settings, shop, pause=0.05):
        until(lambda: served(settings), "the stream serves nothing")
        clients = [threading.Thread(target=read, args=(i,)) for i in range(4)]
        for c in clients:
            c.start()
        # They do read beside commits: each sees several states.
        until(lambda: bool(torn) or min(len(s) for s in seen) >= 5, "the clients see no commits")
        over.set()
        for c in clients:
            c.join()
        asked = tally("sql", "-f", "json", TORN)
        assert asked.returncode == 0, asked.stderr
        assert list(json.loads(asked.stdout)[0].values())[:3] == [True, True, True]
        told = json.loads(tally("status", "--json").stdout)
        assert told["stream"] == "running"
        assert (told["health"]["supervisor_pid"], told["health"]["workers"]) == (running.pid, 1)
        assert told["health"]["restarts"] == 0 and told["health"]["commit_seconds"]["p99"] > 0
        running.terminate()
        assert running.wait(PATIENCE) == 0
    assert torn == []
    assert min(len(s) for s in seen) >= 5
    assert tally("run", "--until-end").returncode == 0
    compare_all(settings)


def test_only_reads_are_answered_live_and_at_rest(fresh_topics, tmp_path):
    settings, shop = fresh_topics(2), Shop(12)
    publish(settings, shop, 300)
    with stream() as running:
        until(lambda: served(settings), "the stream serves nothing")
        with open_reader(settings) as reader:
            assert reader.live
            until(lambda: reader.rows("SELECT sum(consumed) FROM ledger.offsets")[2] == [(300,)], "not all was read")
            refuse(reader)
        for script in ("schema.sql", "load.sql"):
            (tmp_path / script).write_text("sesame open;")
        straight_over_quack(json.loads(live_file(settings).read_text()), tmp_path)
        running.terminate()
        assert running.wait(PATIENCE) == 0
    with open_reader(settings) as reader:
        assert not reader.live
        refuse(reader)
    asked = tally("sql", "SELECT * FROM read_text('/etc/hostname')")
    assert asked.returncode != 0
    assert "read_text" in asked.stderr
    assert "Traceback" not in asked.stderr
    compare_all(settings)


def test_a_query_without_end_is_left_and_stops_neither_commits_nor_the_stop(fresh_topics):
    settings, shop = fresh_topics(2), Shop(13)
    publish(settings, shop, 100)
    endless = [sys.executable, "-m", "tallystream.cli", "sql", "SELECT count(*) FROM range(100000000000000)"]

    def consumed() -> int:
        with open_reader(settings) as reader:
            return reader.rows("SELECT sum(consumed)::BIGINT FROM ledger.offsets")[2][0][0]

    with stream() as running:
        until(lambda: served(settings), "the stream serves nothing")
        with subprocess.Popen(
            endless, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            address = json.loads(live_file(settings).read_text())
            until(lambda: queries(address) == 1, "the query does not run")
            for n in (200, 300):
                publish(settings, shop, 100)
                until(lambda n=n: consumed() == n, "nothing is committed beside it")
            client.send_signal(signal.SIGINT)
            told, _ = client.communicate(timeout=20)
            assert client.returncode != 0
            assert "Traceback" not in told
        # The server still works on it.
        running.terminate()
        assert running.wait(30) == 0
    compare_all(settings)


def queries(address: dict[str, str]) -> int:
    """How many queries of clients the writer works on, by its health."""
    return len(httpx.get(f"{address['admin']}/health").json()["query_seconds"])


def refuse(reader) -> None:
    for sql in REFUSED:
        with pytest.raises(QueryError):
            print(sql, reader.rows(sql))
    assert reader.rows("SELECT 1 AS one")[2] == [(1,)]


def straight_over_quack(address: dict[str, str], secrets: Path) -> None:
    """A client that is not ours, and checks nothing itself."""
    send = "FROM quack_query(?, ?, token := ?, disable_ssl := true)"
    with connect() as con:
        load_extensions(con)
        assert con.execute(send, [address["quack"], "SELECT 1", address["token"]]).fetchall() == [(1,)]
        for sql in REFUSED:
            with pytest.raises(duckdb.Error):
                print(sql, con.execute(send, [address["quack"], sql, address["token"]]).fetchall())
        for sql in (f"IMPORT DATABASE '{secrets}'", f"SELECT 1; IMPORT DATABASE '{secrets}'"):
            with pytest.raises(duckdb.Error) as refused:
                con.execute(send, [address["quack"], sql, address["token"]]).fetchall()
            # Parsing it is reading it.
            assert "sesame" not in str(refused.value)
            assert str(secrets) not in str(refused.value)
        for token in ("", "wrong", address["token"][:-1]):
            with pytest.raises(duckdb.Error):
                con.execute(send, [address["quack"], "SELECT 1", token]).fetchall()
        assert con.execute(send, [address["quack"], "SELECT 1", address["token"]]).fetchall() == [(1,)]
