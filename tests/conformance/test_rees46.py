"""Every fact of the real click data, through the engine; skipped where the data is not."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from datetime import datetime
from decimal import Decimal

import pytest

from tallystream.settings import PROJECT
from tallystream.views.loader import load_view
from tests.conformance.cases import sorted_rows
from tests.oracle.judging import Message
from tests.warehouse.stream import Stream, encode

DATA = PROJECT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the rees46 data, ../shared/data, is not on this machine")


def logs(partitions=3):
    """Both topics as `data/README.md` maps them, in file order, by key."""
    found = {t: {p: [] for p in range(partitions)} for t in ("clicks", "orders")}
    text = gzip.decompress((DATA / "rees46-2019-10-01.csv.gz").read_bytes()).decode()
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 1):
        name, cents = f"rees46-{number}", int(Decimal(row["price"]) * 100)
        common = {
            "event_id": name,
            "event_time": datetime.strptime(row["event_time"], "%Y-%m-%d %H:%M:%S UTC"),
        }
        if row["event_type"] == "purchase":
            topic, key = "orders", name
            item = {"product_id": row["product_id"], "quantity": 1, "unit_price_cents": cents}
            event = {**common, "event_type": "OrderCreated", "order_id": name, "customer_id": row["user_id"]}
            event |= {"items": [item], "total_cents": cents, "currency": "USD"}
        else:
            topic, key = "clicks", row["user_id"]
            event = {
                **common,
                "event_type": row["event_type"],
                "user_id": key,
                "product_id": row["product_id"],
                "url": None,
            }
            event |= {"session_id": row["user_session"] or None, "category": row["category_code"] or None}
            event |= {"brand": row["brand"] or None, "price_cents": cents}
        log = found[topic][sum(key.encode()) % partitions]
        log.append(Message(len(log), None, key.encode(), encode(topic, event)))
    return found


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The views of all facts over the data, with a crash in the middle; view SQL -> name."""
    folder = tmp_path_factory.mktemp("rees46")
    facts = json.loads((DATA / "rees46_expected.json").read_text())
    names, plans = {}, {}
    for fact in facts["facts"]:
        if fact["view"] not in names:
            name = names[fact["view"]] = f"v{len(names)}"
            (folder / f"{name}.sql").write_text(fact["view"])
            plans[name] = load_view(folder / f"{name}.sql")
    stream = Stream(folder / "home", logs(), 600, 3600)
    stream.start(plans)
    for _ in range(3):
        stream.commit([d for t, p in stream.starts if (d := stream.read(t, p, 700)) is not None])
    stream.start(plans)
    stream.to_end(700)
    yield stream, names, facts
    stream.con.close()


def test_every_fact(engine):
    stream, names, facts = engine
    for fact in facts["facts"]:
        plan = stream.plans[names[fact["view"]]]
        final = " EXCLUDE (is_final)" if plan.window else ""
        view = f"(SELECT *{final} FROM main.{plan.name})"
        query = f"FROM {view}" if fact["query"] is None else f"WITH v AS {view} {fact['query']}"
        rows = sorted_rows(stream.con, query)
        assert len(rows) == fact["row_count"], fact["name"]
        lines = "".join(json.dumps(list(r.values()), ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows)
        first = fact.get("rows") or fact["first_rows"]
        assert rows[: len(first)] == first, fact["name"]
        assert hashlib.sha256(lines.encode()).hexdigest() == fact["checksum"], fact["name"]


def test_the_accounts(engine):
    stream, _, facts = engine
    for topic, wanted in facts["accounts"].items():
        found = stream.con.execute(
            f"SELECT {', '.join(f'sum({name})::BIGINT' for name in wanted)} FROM ledger.offsets WHERE topic = ?",
            [topic],
        ).fetchone()
        assert dict(zip(wanted, found, strict=True)) == wanted
