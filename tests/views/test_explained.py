"""The SQL of every shipped plan, as a snapshot: a change of what runs inside the transaction is read by somebody."""

from __future__ import annotations

from pathlib import Path

from tallystream.views.loader import load_views

# To make it anew: python -m tests.views.test_explained > tests/views/explained.txt, then read the difference.
SNAPSHOT = Path(__file__).parent / "explained.txt"


def explained() -> str:
    """All plans, as `tally views explain` tells them."""
    return "\n\n".join(plan.explain() for plan in load_views().values()) + "\n"


def test_the_plans_are_those_of_the_snapshot():
    assert explained() == SNAPSHOT.read_text(encoding="utf-8")


def test_a_comment_makes_no_new_version_and_a_column_does(tmp_path):
    file = tmp_path / "v.sql"
    versions = []
    for sql in (
        "SELECT user_id, count(*) AS n FROM clicks GROUP BY ALL",
        "-- said otherwise\nSELECT\n  user_id, -- who\n  count(*) AS n\nFROM clicks GROUP BY ALL;",
        "SELECT user_id, count(*) AS m FROM clicks GROUP BY ALL",
        "SELECT user_id, count(url) AS n FROM clicks GROUP BY ALL",
        "SELECT user_id, count(*) AS n FROM clicks WHERE url IS NOT NULL GROUP BY ALL",
    ):
        file.write_text(sql)
        versions.append(load_views(tmp_path)["v"].version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 4


if __name__ == "__main__":
    print(explained(), end="")
