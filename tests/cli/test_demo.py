"""`make demo` on few events: every step is shown, and the numbers that it prints are those of the books."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tallystream.cli import demo
from tallystream.errors import UsageError
from tallystream.settings import Settings, load
from tallystream.topics import broker
from tallystream.warehouse.control import open_prepared

EVENTS, COPIES, MALFORMED = 3000, 30, 12


@pytest.mark.embedded  # it starts one
def test_the_demo(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EVENTS", EVENTS)
    told = io.StringIO()
    demo.demo(load(), Console(file=told, width=200))
    text = " ".join(told.getvalue().split())
    assert broker.status(settings) is None, "it left its broker behind"
    for step in ("$ tally broker start", "$ tally generate", "$ tally run --until-end", *demo.VIEWS):
        assert step in text
    found = re.search(r"([\d,]+) consumed = (.*?) shed", text)
    assert found is not None, text
    consumed = int(found[1].replace(",", ""))
    parts = {name: int(n.replace(",", "")) for n, name in re.findall(r"([\d,]+) (\w+)", f"{found[2]} shed")}
    assert consumed == sum(parts.values()) == EVENTS + COPIES + MALFORMED
    assert parts == {"applied": EVENTS, "duplicate": COPIES, "late": 0, "dead": MALFORMED, "shed": 0}
    with open_prepared(settings) as con:
        listed = ", ".join(f"sum({name})::BIGINT" for name in parts)
        assert con.execute(f"SELECT {listed} FROM ledger.offsets").fetchone() == tuple(parts.values())
        for (shown,) in con.execute(
            "SELECT product_id FROM top_products ORDER BY views DESC, product_id LIMIT 5"
        ).fetchall():
            assert shown in text
    assert re.search(rf"{consumed:,} messages tallied in [\d.]+ s", text)


def test_a_home_that_somebody_works_in_is_left_alone(home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "mine").touch()
    with pytest.raises(UsageError, match="was not made by a demo"):
        demo.demo(load(), Console(file=io.StringIO()))
    assert [f.name for f in home.iterdir()] == ["mine"]
