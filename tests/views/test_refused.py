"""What cannot be kept is refused at load: file, line, construct, what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tallystream.errors import ViewError
from tallystream.views.loader import load_view, load_views
from tests.views.refused import REFUSED, told

# To make it anew: python -m tests.views.refused > tests/views/refused.txt, then read the difference.
SNAPSHOT = (Path(__file__).parent / "refused.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("name", "said"), list(zip(REFUSED, SNAPSHOT, strict=True)))
def test_it_is_refused_with_file_line_construct_and_advice(name, said):
    assert told(name) == said
    assert re.match(rf"{name}\.sql:\d+: \S.*: .*; .+", said)


def test_the_line_is_that_of_the_construct_not_of_a_comment(tmp_path):
    path = tmp_path / "v.sql"
    path.write_text(
        "-- median of clicks\nSELECT\n    user_id,\n    median(price_cents) AS m\nFROM clicks\nGROUP BY ALL\n"
    )
    with pytest.raises(ViewError, match=r"^v\.sql:4: median: cannot be merged"):
        load_view(path)


@pytest.mark.parametrize("name", ["orders", "late_events", "Upper", "with-dash", "1st", "activity"])
def test_a_name_that_is_taken_or_no_name(name, tmp_path):
    (tmp_path / f"{name}.sql").write_text("SELECT count(*) AS n FROM clicks")
    with pytest.raises(ViewError, match="the file's name is the view's"):
        load_views(tmp_path)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "v.sql").write_bytes(b"SELECT count(*) AS n FROM clicks WHERE url = '\xff'")
    with pytest.raises(ViewError, match="not UTF-8 at byte"):
        load_views(tmp_path)
