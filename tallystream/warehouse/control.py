"""One way to act on a warehouse, whether a stream runs or not: ask its writer, or hold the run lock and do it here."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import duckdb
import httpx

from tallystream.errors import TallyError, UsageError, WarehouseError
from tallystream.settings import Settings
from tallystream.warehouse.extensions import open_warehouse
from tallystream.warehouse.held import PATIENCE, PAUSE, WAIT, named
from tallystream.warehouse.live import live_address
from tallystream.warehouse.schema import migrate

LOCK_WAIT = 3.0  # seconds, beside a stream: the processes of a killed supervisor need a moment to die
# A snapshot of a large warehouse to a far store takes its time; a writer that died is noticed at once.
TIMEOUT = httpx.Timeout(3600.0, connect=5.0)


def ask_writer(settings: Settings, action: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """The writer's answer; None when no stream runs on this TALLY_HOME.

    Raises:
        TallyError: the writer refused, in its own words.
        WarehouseError: it died or fell silent while it was at work; running the command again is safe.
    """
    found = live_address(settings)
    if found is None:
        return None
    try:
        answer = httpx.post(
            f"{found['admin']}/actions/{action}",
            json=body,
            headers={"Authorization": f"Bearer {found['token']}"},
            timeout=TIMEOUT,
        )
    except httpx.ConnectError:
        return None
    except httpx.HTTPError as error:
        raise WarehouseError(
            f"the running stream did not finish the {action}: {type(error).__name__}; see `tally status`, then run this again"
        ) from None
    if answer.is_success:
        done: dict[str, Any] = answer.json()
        return done
    raise (UsageError if answer.status_code == 400 else TallyError)(_told(answer, action))


def _told(answer: httpx.Response, action: str) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the running stream answered the {action} with {answer.status_code}: {answer.text[:300]}"


@contextmanager
def open_prepared(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, migrated, for the short time before the writer process opens it."""
    con = open_warehouse(settings)
    try:
        migrate(con)
        yield con
    finally:
        con.close()


@contextmanager
def run_lock(settings: Settings) -> Iterator[IO[str]]:
    """One stream a TALLY_HOME, or one command that works on its file at rest; waits for the latter.

    Raises:
        WarehouseError: another one holds it.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "run.lock").open("a+") as file:
        began, told = time.monotonic(), False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited, streams = time.monotonic() - began, live_address(settings) is not None
                if streams and waited > LOCK_WAIT:
                    raise WarehouseError(
                        f"a stream already runs on {settings.root}; see `tally status`, or stop it"
                    ) from None
                who = _holder(file)
                if waited > WAIT:
                    raise WarehouseError(
                        f"{settings.root} is taken by {who}, for more than {WAIT:.0f} s: a stream that starts, or a command at "
                        "rest; nothing was changed: run this again when that is done"
                    ) from None
                if waited > PATIENCE and not streams and not told:
                    print(
                        f"waiting up to {WAIT:.0f} s for {settings.root}: taken by {who}", file=sys.stderr, flush=True
                    )
                    told = True
            time.sleep(PAUSE)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def _holder(file: IO[str]) -> str:
    file.seek(0)
    pid = file.read().strip()
    return named(int(pid)) if pid.isdecimal() else "another process"
