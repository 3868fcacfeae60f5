"""Files that are written otherwise than ours, over events with odd values: the stream's rows are those of the file's SQL.

Each of these was once wrong, or stopped a stream.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from functools import cache

import pytest

from tallystream.views.loader import load_view
from tests.oracle.batch import database
from tests.oracle.judging import Message
from tests.views.by_hand import bag
from tests.views.test_every_shape import accepted
from tests.warehouse.stream import Stream, encode

BASE = datetime(2026, 3, 1, 12)
HUGE = 2**63 - 1
TUMBLE = "FROM tumble(clicks, INTERVAL 1 MINUTE) GROUP BY ALL"
ASOF = "ON o.customer_id = c.user_id AND o.event_time >= c.event_time"

# Whose own SQL DuckDB runs over these events, to the same rows.
PLAIN = {
    "upper_case": f"select WINDOW_START, Event_Type, COUNT(*) AS N, SUM(PRICE_CENTS % 100) AS S {TUMBLE}",
    "quoted": 'SELECT "window_start", "window_end", "brand", count(*) AS "the n" '
    'FROM hop("clicks", INTERVAL 30 SECONDS, INTERVAL 1 MINUTE) GROUP BY "window_start", "window_end", "brand"',
    "quoted_key": 'SELECT USER_ID, window_end, count(*) AS n FROM session(clicks, "user_id", INTERVAL 5 SECONDS) GROUP BY ALL',
    "alias_in_other_case": "SELECT brand AS Maker, count(*) AS N FROM clicks GROUP BY ALL HAVING n > 3 AND maker IS NOT NULL",
    "names_in_texts": "SELECT window_start, 'window_end is ' || count(*) AS told, '__k0__ ' || event_type AS kind, "
    f"'__a0__' AS a {TUMBLE}",
    "whole_match": "SELECT url ~ '^/p' AS whole, url !~ '/.*' AS not_whole, regexp_matches(url, '^/p') AS some, count(*) AS n "
    "FROM clicks GROUP BY ALL",
    "logarithms": f"SELECT window_start, max(log2(length(url) + 1)) AS two, max(log10(length(url) + 1)) AS ten {TUMBLE}",
    "nothing_passes": "SELECT count(*) AS n, count(brand) AS b, sum(price_cents) AS s, min(url) AS u, 1 + count(*) AS one "
    "FROM clicks WHERE event_type = 'no such'",
    "nothing_passes_having": "SELECT count(*) AS n FROM clicks WHERE event_type = 'no such' HAVING count(*) > 0",
    "nothing_approximate": "SELECT approx_count_distinct(brand) AS n FROM clicks WHERE event_type = 'no such'",
    "session_and_more": "SELECT user_id, brand, window_start, window_end, count(*) AS q "
    "FROM session(clicks, user_id, INTERVAL 4 SECONDS) GROUP BY ALL",
    "comment_behind": "SELECT event_type, count(*) AS n FROM clicks GROUP BY ALL; -- done",
    "in_parentheses": "(SELECT event_type, count(*) AS n FROM clicks GROUP BY ALL)",
    "byte_order_mark": "\ufeffSELECT event_type, count(*) AS n FROM clicks GROUP BY ALL",
    "of_the_zone": "SELECT CAST(event_time::TIMESTAMPTZ AS VARCHAR)[:13] AS hour, count(*) AS n FROM clicks GROUP BY ALL",
    "decimals": "SELECT event_type, sum(CAST(length(url) AS DECIMAL(9, 2)) * 1.19) AS taxed FROM clicks GROUP BY ALL",
    "order_upper": f"select O.ORDER_ID, O.EVENT_ID as E, C.URL from orders O asof left join clicks C {ASOF} WHERE o.order_id <> 'x'",
}  # fmt: skip
# Whose own SQL stops at one of the events: it is NULL there, in the stream as in the batch form.
SAFE = {
    "overflow_shared": f"SELECT window_start, sum(price_cents * 10) AS ten, max(price_cents * 10 + 1) AS more {TUMBLE}",
    "overflow_lines": "SELECT sum(quantity * unit_price_cents) AS cents, count_if(quantity * unit_price_cents > 1000) AS dear "
    "FROM order_items",
    "infinite": f"SELECT window_start, approx_quantile(100 / price_cents, 0.5) AS q, approx_quantile(price_cents, 1) AS top {TUMBLE}",
    "cast_of_an_aggregate": "SELECT event_type, CAST(max(url) AS BIGINT) AS n, count(*) AS c FROM clicks GROUP BY ALL",
    "cast_in_having": "SELECT event_type, count(*) AS c FROM clicks GROUP BY ALL HAVING CAST(min(url) AS BIGINT) IS NULL",
    "cast_of_a_match": f"SELECT o.event_id, CAST(c.url AS BIGINT) AS n, coalesce(c.price_cents, 2) * o.total_cents AS product "
    f"FROM orders o ASOF LEFT JOIN clicks c {ASOF}",
    "cast_in_where": f"SELECT o.event_id, c.url FROM orders o ASOF LEFT JOIN clicks c {ASOF} WHERE CAST(o.order_id AS BIGINT) > 3",
    "quantile_in_an_expression": f"SELECT window_start, round(approx_quantile(price_cents % 1000, 0.9) / 10, 2) AS q {TUMBLE}",
    "items_of_one_order": "SELECT c.event_id, i.quantity, i.product_id FROM clicks c ASOF LEFT JOIN order_items i "
    "ON c.user_id = i.customer_id AND c.event_time >= i.event_time",
}  # fmt: skip
TIES = {"order_upper"}


def click(r: random.Random, n: int) -> dict[str, object]:
    return {
        "event_id": f"c{n}", "event_type": r.choice(["view", "cart", "window_end"]),
        "event_time": BASE + timedelta(seconds=n // 20 + r.randrange(9)), "user_id": f"u{r.randrange(12)}",
        "session_id": None, "product_id": r.choice(["p1", "p2", None]), "category": None,
        "brand": r.choice(["x", "Y", "", None]), "url": r.choice(["/p", "/p/1", "12", "", "it's", None]),
        "price_cents": r.choice([0, 1, 49, 50, 999, HUGE, HUGE // 10, None]),
    }  # fmt: skip


def order(r: random.Random, n: int) -> dict[str, object]:
    lines = [
        {"product_id": r.choice(["p1", "p2"]), "quantity": r.choice([1, 2, 5 * 10**9]), "unit_price_cents": r.choice([7, 5 * 10**9])}
        for _ in range(r.randrange(4))
    ]  # fmt: skip
    return {
        "event_id": f"o{n}", "event_type": "OrderCreated", "event_time": BASE + timedelta(seconds=n // 2 + r.randrange(9)),
        "order_id": r.choice(["5", "7", "x"]), "customer_id": f"u{r.randrange(12)}", "items": lines,
        "total_cents": r.choice([1, HUGE]), "currency": "EUR",
    }  # fmt: skip


@cache
def logs() -> dict[str, dict[int, list[Message]]]:
    r, found = random.Random(3), {t: {0: [], 1: []} for t in ("orders", "clicks")}
    for topic, made, n, key in (("clicks", click, 3000, "user_id"), ("orders", order, 200, "order_id")):
        for i in range(n):
            event = made(r, i)
            log = found[topic][sum(str(event[key]).encode()) % 2]
            log.append(Message(len(log), None, str(event[key]).encode(), encode(topic, event)))
    return found


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name, sql in {**PLAIN, **SAFE}.items():
        (folder / f"{name}.sql").write_text(sql)
    made = Stream(folder / "home", logs(), 600, 3600)
    made.start({path.stem: load_view(path) for path in sorted(folder.glob("*.sql"))})
    made.to_end(97)
    yield made
    made.con.close()


@pytest.fixture(scope="module")
def at_once():
    con = database(accepted(logs(), 600))
    yield con
    con.close()


def shown(stream, name):
    columns = ", ".join(f'"{c}"' for c in stream.plans[name].types)
    return bag(stream.con.execute(f'SELECT {columns} FROM main."{name}"').fetchall())


@pytest.mark.parametrize("name", [*PLAIN, *SAFE])
def test_rows_are_those_of_the_batch(stream, at_once, name):
    plan = stream.plans[name]
    found = shown(stream, name)
    assert found == bag(at_once.execute(plan.batch_sql()).fetchall())
    assert found or "nothing" in name
    if name in PLAIN and name not in TIES:
        assert found == bag(at_once.execute(plan.sql.lstrip("\ufeff").split(";")[0]).fetchall())


def test_one_event_too_large_is_null_for_its_own_row_only(stream):
    cents, dear = stream.con.execute("FROM main.overflow_lines").fetchall()[0]
    assert 0 < cents < HUGE and dear > 0
    numbers = stream.con.execute("SELECT n, c FROM main.cast_of_an_aggregate").fetchall()
    assert len(numbers) == 3 and {n for n, _ in numbers} == {None}
    tops = [t for (t,) in stream.con.execute("SELECT top FROM main.infinite").fetchall()]
    assert tops and all(t is None or t <= HUGE for t in tops)


def test_the_zone_of_the_machine_changes_nothing(tmp_path, monkeypatch):
    """In a process of its own: DuckDB looks at TZ once."""
    import os
    import subprocess
    import sys

    (tmp_path / "v.sql").write_text(PLAIN["of_the_zone"])
    program = (
        "import pyarrow as pa, sys, pathlib, datetime as d\n"
        "from tallystream.views.loader import load_view\nfrom tallystream.views.tally import Tallier\n"
        "plan = load_view(pathlib.Path(sys.argv[1]))\n"
        "events = pa.table({'event_type': ['view'], 'event_time': pa.array([d.datetime(2026, 1, 1)], pa.timestamp('us'))})\n"
        "print(Tallier({'v': plan}).tally('clicks', events)['v'].to_pylist())\n"
    )
    told = {
        zone: subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "v.sql")], env={**os.environ, "TZ": zone}, capture_output=True,
            text=True, check=True,
        ).stdout
        for zone in ("UTC", "America/New_York")
    }  # fmt: skip
    assert told["UTC"] == told["America/New_York"] and "2026-01-01 00" in told["UTC"]
