"""A supervised stream that dies again and again, and is compared after every death."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from rich.console import Console

from tallystream.cli import supervise
from tallystream.settings import PROJECT, TOPICS, Settings
from tallystream.warehouse.control import open_prepared
from tests.oracle.books import compare, keep, read_log, schemas
from tests.oracle.judging import judge
from tests.oracle.shipped import SHIPPED
from tests.servers.broker import PATIENCE

EPOCH = 50  # ms between commits


def compare_prefix(con: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Compares with the books of the messages before the stored offsets: what a crash must leave.

    Views that are being built, or stand until their successor is, hold no such prefix.
    """
    ends = {(t, p): o for t, p, o in con.execute("SELECT topic, partition, next_offset FROM ledger.offsets").fetchall()}
    known = schemas()
    logs = {t: read_log(settings, t) for t in TOPICS}
    books = {
        t: {p: judge([m for m in log if m.offset < ends[t, p]], known, topic=t) for p, log in by.items()}
        for t, by in logs.items()
    }
    live = {name for (name,) in con.execute("SELECT name FROM ledger.views WHERE status = 'live'").fetchall()}
    compare(con, books, tuple(name for name in SHIPPED if name in live))


def compare_all(settings: Settings) -> None:
    """Compares with the books of the whole log."""
    with open_prepared(settings) as con:
        compare(con, keep(settings))


class Dying(supervise.Supervisor):
    """A supervisor in the test's process: each start of its processes is told the next of `failpoints`.

    Between a death and the next start it compares the file with the books; after the last one it stops.
    """

    def __init__(self, settings: Settings, failpoints: list[str], workers: int = 1, views: Path | None = None):
        self.told = io.StringIO()
        super().__init__(settings, views, workers, False, Console(file=self.told))
        self._settings = settings.model_copy(update={"epoch_ms": EPOCH, "mirror_ms": 0})
        self._left = list(failpoints)
        self.deaths: list[str | None] = []

    def _prepare(self) -> Path:
        if self._settings.warehouse.exists():
            with open_prepared(self._settings) as con:
                compare_prefix(con, self._settings)
        os.environ.pop("TALLY_FAILPOINT", None)
        job = super()._prepare()
        if self._left:
            os.environ["TALLY_FAILPOINT"] = self._left.pop(0)
        else:
            self._stopping = True
        return job

    def _supervise(self, job_file: Path) -> int:
        failpoint = os.environ.get("TALLY_FAILPOINT")
        code = super()._supervise(job_file)
        if code == signal.SIGKILL:
            self.deaths.append(failpoint)
        return code


class Rebuilding(Dying):
    """At each start two views in `views` have changed, so that they are read from the log again while others go on."""

    def __init__(self, settings: Settings, failpoints: list[str], views: Path, workers: int):
        super().__init__(settings, failpoints, workers, views)
        self._changes = 0
        self._files = {name: (views / f"{name}.sql").read_text() for name in ("revenue_per_minute", "top_products")}

    def _prepare(self) -> Path:
        self._changes += 1
        for name, text in self._files.items():
            # Another definition with the same rows: no event has such a type.
            changed = text.replace("WHERE event_type", f"WHERE event_type <> '{self._changes}' AND event_type")
            assert changed != text
            (self._views_dir / f"{name}.sql").write_text(changed)
        job = super()._prepare()
        with open_prepared(self._settings) as con:
            building = con.execute("SELECT name FROM ledger.views WHERE status = 'building' ORDER BY name").fetchall()
        assert building == [(name,) for name in sorted(self._files)]
        return job


class Hunted(Dying):
    """A supervisor one of whose processes, or all, die by kill -9 at random moments, until `seconds` are over."""

    def __init__(self, settings: Settings, seconds: float, seed: int, workers: int):
        super().__init__(settings, [], workers)
        self._until_time = time.monotonic() + seconds
        self._random = random.Random(seed)

    def _prepare(self) -> Path:
        job = super()._prepare()
        self._stopping = time.monotonic() > self._until_time
        return job

    def _supervise(self, job_file: Path) -> int:
        timer = threading.Timer(self._random.choice([0.3, 1.5, 2.5]) + 2 * self._random.random(), self._kill)
        if not self._stopping:
            timer.start()
        try:
            return super()._supervise(job_file)
        finally:
            timer.cancel()

    def _kill(self) -> None:
        victims = children("dataflows")
        for pid in self._random.sample(victims, self._random.randint(1, len(victims)) if victims else 0):
            os.kill(pid, signal.SIGKILL)


def children(word: str, parent: int | None = None) -> list[int]:
    """The child processes of `parent`, this process when None, whose command line has the word."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            ppid = int(status.read_text().rpartition(")")[2].split()[1])
            if ppid == (parent or os.getpid()) and word in (status.parent / "cmdline").read_text():
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


@contextmanager
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any number of deaths, without waits; the test's own signal handlers come back at the end."""
    monkeypatch.setattr(supervise, "RESTARTS", 10**6)
    monkeypatch.setattr(supervise, "BACKOFF", 0.0)
    monkeypatch.setenv("TALLY_FAILPOINT", "none")
    monkeypatch.setenv("TALLY_EPOCH_MS", str(EPOCH))
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tally(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `tally` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tallystream.cli", *args],
        cwd=PROJECT,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        timeout=2 * PATIENCE,
        check=False,
    )


@contextmanager
def stream(*args: str) -> Iterator[subprocess.Popen[str]]:
    """An endless `tally run`, killed at the end when it still lives."""
    with subprocess.Popen(
        [sys.executable, "-m", "tallystream.cli", "run", *args],
        cwd=PROJECT,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
