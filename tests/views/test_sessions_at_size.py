"""Sessions of many events at one time, in large batches: what DuckDB sorts in parallel has no order among equals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from tallystream.database import connect
from tallystream.views.loader import create_relations, install_macros, load_view
from tallystream.views.tally import Tallier
from tallystream.warehouse.schema import migrate

N = 60_000
VIEWS = {
    "by_user": "SELECT user_id, window_start, window_end, count(*) AS n FROM session(clicks, user_id, INTERVAL 8 SECONDS) GROUP BY ALL",
    "by_user_and_brand": "SELECT user_id, brand, window_start, window_end, count(*) AS n, sum(price_cents) AS cents "
    "FROM session(clicks, user_id, INTERVAL 8 SECONDS) GROUP BY ALL",
    "by_brand_and_kind": "SELECT brand, event_type, window_start, window_end, count(*) AS n "
    "FROM session(clicks, brand, INTERVAL 20 MILLISECONDS) GROUP BY ALL",
}


def clicks() -> pa.Table:
    r = np.random.default_rng(5)
    # Whole seconds: a third of the events of a user have a neighbour at the same time.
    times = np.sort(r.integers(0, 4000, N)) * 1_000_000 + 1_790_000_000_000_000
    columns = {
        "event_id": pa.array([f"c{i}" for i in range(N)]),
        "event_type": pa.array(r.choice(["view", "cart"], N)),
        "event_time": pa.array(times, pa.timestamp("us")),
        "user_id": pa.array([f"u{i}" for i in r.zipf(1.3, N) % 400]),
        "brand": pa.array([None if i == 5 else f"b{i}" for i in r.integers(0, 6, N)]),
        "price_cents": pa.array(r.integers(0, 1000, N)),
    }
    return pa.table(columns)


@pytest.mark.parametrize("name", VIEWS)
def test_every_session_is_that_of_the_macro(tmp_path, name):
    (tmp_path / f"{name}.sql").write_text(VIEWS[name])
    plan, events, con = load_view(tmp_path / f"{name}.sql"), clicks(), connect()
    migrate(con)
    con.execute("INSERT INTO ledger.watermarks VALUES ('clicks', NULL)")
    for statement in plan.state_ddl():
        con.execute(statement)
    con.execute(plan.view_sql())
    tallier = Tallier({name: plan})
    shuffled = events.take(np.random.default_rng(6).permutation(N))
    for part in (shuffled.slice(0, 20_000), shuffled.slice(20_000, 100), shuffled.slice(20_100)):
        plan.merge(con, tallier.tally("clicks", part)[name])
    install_macros(con)
    create_relations(con)
    con.register("given", events)
    con.execute("INSERT INTO clicks BY NAME SELECT * FROM given")
    found = Counter(con.execute(f"SELECT * EXCLUDE (is_final) FROM main.{name}").fetchall())
    assert found == Counter(con.execute(plan.sql).fetchall())
