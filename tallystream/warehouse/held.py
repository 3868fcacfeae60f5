"""Opening the DuckDB file while somebody else may hold it: DuckDB locks it to one process, readers at rest included."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import duckdb

from tallystream.database import connect as open_database
from tallystream.errors import WarehouseError

# Seconds: a reader at rest holds the file for one query, a writer that ends for its last checkpoint. A sensor looks every
# half a minute, and a `tally run` that failed on it would fail now and then, for no reason that anybody sees.
WAIT = 10.0
PATIENCE = 0.5  # seconds that nobody is told of
PAUSE = 0.05
HOLDER = re.compile(r"Conflicting lock is held in (.*) \(PID (\d+)\)")


def connect(path: Path, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """Opens the file, waiting for whoever holds it; says on stderr for whom.

    Raises:
        WarehouseError: it is held for longer, or it is no database.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            return open_database(path, read_only)
        except duckdb.Error as error:
            if not isinstance(error, duckdb.IOException) or "lock" not in str(error):
                raise WarehouseError(f"{path} cannot be opened: {error}; nothing was changed") from error
            waited, who = time.monotonic() - began, holder(error)
            if waited > WAIT:
                raise WarehouseError(
                    f"{path} is held by {who}, for more than {WAIT:.0f} s; nothing was changed: end that, then run this again"
                ) from error
            if waited > PATIENCE and not told:
                print(f"waiting up to {WAIT:.0f} s for {path}: it is held by {who}", file=sys.stderr, flush=True)
                told = True
        time.sleep(PAUSE)


def holder(error: duckdb.Error) -> str:
    """Who has the lock, as a person knows it: the command, and its pid."""
    found = HOLDER.search(str(error))
    return named(int(found[2])) if found else "another process"


def named(pid: int) -> str:
    """The command of a process, and its pid; the pid alone where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    # `tally sql …`, not the interpreter and the path of its module.
    words = ["tally", *words[words.index("tallystream.cli") + 1 :]] if "tallystream.cli" in words else words
    command = " ".join(" ".join(words).split())
    return f"`{command[:60]}` (pid {pid})" if command else f"process {pid}"
