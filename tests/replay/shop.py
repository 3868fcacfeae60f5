"""What the tests of replays share: commands, queries, and views with a planted bug."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from tallystream.views.loader import VIEWS
from tallystream.warehouse.read import open_reader

RULES = {"lateness": timedelta(seconds=5)}
EVENTS = ["--events", "6000", "--seed", "3", "--duplicates", "0.02", "--disorder", "20", "--malformed", "9"]


def tally(*arguments, code=0, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "tallystream.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def rows(settings, sql):
    with open_reader(settings) as reader:
        return reader.rows(sql)[2]


def revenue(settings):
    return rows(settings, "SELECT * FROM revenue_per_minute ORDER BY ALL")


def buggy(folder: Path) -> Path:
    """The shipped views, one of them with a planted bug: a cent more for each order."""
    shutil.copytree(VIEWS, folder)
    path = folder / "revenue_per_minute.sql"
    path.write_text(path.read_text().replace("sum(total_cents)", "sum(total_cents + 1)"))
    return folder
