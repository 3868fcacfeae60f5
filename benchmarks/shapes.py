"""What each window shape costs: CPU seconds of its partial and its merge, a million clicks, beside tumble.

    python -m benchmarks.shapes

Batches of 50,000 clicks over ten seconds each, of 60,000 users with Zipf popularity, and 2,500 orders; a commit a batch;
final rows are frozen as in a stream. Decode, judge and the broker are left out. CPU time, for other work may share the machine.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from tallystream.views.loader import load_view
from tallystream.views.plan import ViewPlan
from tallystream.views.tally import Tallier
from tallystream.warehouse.extensions import open_writer_connection
from tallystream.warehouse.schema import migrate

CLICKS, ORDERS, SECONDS, BATCHES, LATENESS = 50_000, 2_500, 10, 12, 60
BEGIN = 1_790_000_000 * 10**6
KEYS = "window_start, window_end, event_type, category, count(*) AS n, sum(price_cents) AS cents"
NEAR = "CASE WHEN c.event_time >= o.event_time - INTERVAL 30 MINUTES THEN c.event_id END AS click_id"
VIEWS = {
    "tumble": f"SELECT {KEYS} FROM tumble(clicks, INTERVAL 1 MINUTE) GROUP BY ALL",
    "hop": f"SELECT {KEYS} FROM hop(clicks, INTERVAL 1 MINUTE, INTERVAL 5 MINUTES) GROUP BY ALL",
    "tumble, distinct": f"SELECT {KEYS}, count(DISTINCT user_id) AS users FROM tumble(clicks, INTERVAL 1 MINUTE) GROUP BY ALL",
    "tumble, approximate": f"SELECT {KEYS}, approx_count_distinct(user_id) AS users FROM tumble(clicks, INTERVAL 1 MINUTE) GROUP BY ALL",
    "tumble by user": "SELECT window_start, user_id, count(*) AS n, sum(price_cents) AS cents FROM tumble(clicks, INTERVAL 1 MINUTE) GROUP BY ALL",
    "session": "SELECT user_id, window_start, window_end, count(*) AS n, sum(price_cents) AS cents FROM session(clicks, user_id, INTERVAL 30 MINUTES) GROUP BY ALL",
    "latest": "SELECT user_id, arg_max(url, event_time) AS url, count(*) AS n FROM clicks GROUP BY ALL",
    "attribution": f"SELECT o.order_id, {NEAR} FROM orders o ASOF LEFT JOIN clicks c ON o.customer_id = c.user_id AND o.event_time >= c.event_time",
}


def batch(number: int) -> dict[str, pa.Table]:
    """The clicks and orders of one batch, in time order, as the judge hands them on."""
    made = {}
    for topic, n in (("clicks", CLICKS), ("orders", ORDERS)):
        drawn = np.random.default_rng(number)
        times = np.sort(drawn.integers(0, SECONDS * 10**6, n)) + BEGIN + number * SECONDS * 10**6
        users = pa.array([f"u{u}" for u in drawn.zipf(1.3, n) % 60_000])
        common = {
            "event_id": pa.array([f"{topic}-{number}-{i}" for i in range(n)]),
            "event_time": pa.array(times, pa.timestamp("us")),
            "user_id": users,
            "customer_id": users,
            "event_type": pa.array(drawn.choice(["view", "cart", "remove_from_cart"], n)),
            "category": pa.array(drawn.choice(["a", "b", "c", "d"], n)),
            "url": pa.array([f"/product/{p}" for p in drawn.integers(0, 5000, n)]),
            "price_cents": pa.array(drawn.integers(1, 9999, n)),
            "order_id": pa.array([f"o{number}-{i}" for i in range(n)]),
        }
        made[topic] = pa.table(common)
    return made


def cost(plan: ViewPlan, batches: list[dict[str, pa.Table]]) -> tuple[float, float]:
    """CPU seconds a million clicks: (partial, merge and commit)."""
    with tempfile.TemporaryDirectory() as folder:
        con = open_writer_connection(Path(folder) / "w.duckdb", [Path(folder)])
        migrate(con)
        con.execute("INSERT INTO ledger.watermarks VALUES ('clicks', NULL), ('orders', NULL)")
        for statement in plan.state_ddl():
            con.execute(statement)
        tallier = Tallier({plan.name: plan})
        partial = merge = 0.0
        for number, events in enumerate(batches):
            at = time.process_time()
            deltas = [d for t in plan.topics for d in tallier.tally(t, events[t]).values()]
            partial += time.process_time() - at
            at = time.process_time()
            con.execute("BEGIN")
            plan.merge(con, pa.concat_tables(deltas))
            con.execute("COMMIT")
            merge += time.process_time() - at
            mark = BEGIN + ((number + 1) * SECONDS - LATENESS) * 10**6
            con.execute("UPDATE ledger.watermarks SET watermark = make_timestamp(?::BIGINT)", [mark])
            con.execute("BEGIN")
            for statement in plan.freeze_sql(1_000_000):
                con.execute(statement)
            con.execute("COMMIT")
        con.close()
    scale = 10**6 / (CLICKS * len(batches))
    return partial * scale, merge * scale


def main() -> None:
    """Prints a table: seconds by shape, and its rate beside that of tumble."""
    batches = [batch(i) for i in range(BATCHES)]
    first = 0.0
    print(f"{'shape':22}{'partial s':>12}{'merge s':>12}{'events/CPU s':>14}{'of tumble':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for number, (shape, sql) in enumerate(VIEWS.items()):
            path = Path(folder) / f"v{number}.sql"
            path.write_text(sql)
            partial, merge = cost(load_view(path), batches)
            rate = 10**6 / (partial + merge)
            first = first or rate
            print(f"{shape:22}{partial:12.2f}{merge:12.2f}{rate:14,.0f}{rate / first:12.2f}")


if __name__ == "__main__":
    main()
