"""Starts the processes of a run, and when one dies, ends them all and starts them all.

Killing one process of a Bytewax cluster leaves the others waiting for ever, so they live and
die together. What each must know goes through a job file: only the first opens the warehouse.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from tallystream.cli.progress import Progress
from tallystream.job import Job
from tallystream.settings import TOPICS, Settings
from tallystream.topics.broker import incarnation
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.records import read_records
from tallystream.views.loader import load_views
from tallystream.warehouse.control import open_prepared, run_lock
from tallystream.warehouse.prepare import PartitionStart, TopicLog, prepare

__all__ = ["Supervisor", "open_prepared", "run_lock"]

RESTARTS = 5  # in a row, each without a commit: then the fault is not a passing one
BACKOFF = 0.5  # seconds, doubled at each restart in a row
GRACE = 30.0  # seconds for a last commit before SIGKILL
STREAM_FILE = "stream.json"  # below TALLY_HOME/run
HEALTHY = 60.0  # a run that lived as long begins to count anew


class Supervisor:
    """One `tally run`, from its preparation to its exit code."""

    def __init__(
        self,
        settings: Settings,
        views_dir: Path | None,
        workers: int,
        until_end: bool,
        console: Console,
        before_stop: Callable[[], object] = lambda: None,
    ):
        """`before_stop`: what must end while the writer still answers; called once a stop is asked for."""
        self._settings = settings
        self._before_stop = before_stop
        self._views_dir = views_dir
        self._workers = workers
        self._until_end = until_end
        self._console = console
        self._stopping = False
        self._until: dict[tuple[str, int], int] | None = None
        self._lock = -1

    def run(self) -> int:
        """Runs until the end, a stop, or a fault that does not pass; returns the exit code.

        Raises:
            TallyError: the run cannot begin (log, views, warehouse); nothing was changed.
        """
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        with run_lock(self._settings) as lock:
            self._lock = lock.fileno()
            failures = restarts = 0
            while True:
                began = time.monotonic()
                job_file = self._prepare()
                self._announce(restarts)
                code = self._supervise(job_file)
                if code <= 1 or self._stopping:
                    return min(code, 1)
                failures = 1 if time.monotonic() - began > HEALTHY else failures + 1
                if failures > RESTARTS:
                    self._console.print(
                        f"[bold red]error:[/] the flow died {failures} times in a row; the last commit stands"
                    )
                    return 1
                restarts += 1
                # The failpoint has done its work: the restarted processes must live.
                os.environ.pop("TALLY_FAILPOINT", None)
                self._console.print(
                    f"[yellow]the flow died (code {code}); restarting all its processes from the last commit[/]"
                )
                time.sleep(BACKOFF * 2 ** (failures - 1))

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _announce(self, restarts: int) -> None:
        """For `tally status`: who supervises, and how often it had to start again."""
        started = datetime.now(UTC).replace(tzinfo=None).isoformat() + "Z"
        told = {"pid": os.getpid(), "workers": self._workers, "restarts": restarts, "started_at": started}
        scratch = self._settings.run_dir / f".stream.{os.getpid()}"
        scratch.write_text(json.dumps(told))
        scratch.replace(self._settings.run_dir / STREAM_FILE)

    def _prepare(self) -> Path:
        plans = load_views(self._views_dir)
        kafka_config(self._settings)
        # Before the log is looked at: a broker started after the look is then noticed by who reads it.
        embedded = None if self._settings.bootstrap_servers else incarnation(self._settings)
        logs = {t: TopicLog(i, r) for t, (i, r) in topic_logs(self._settings, TOPICS).items()}
        with open_prepared(self._settings) as con:
            known = {name for (name,) in con.execute("SELECT DISTINCT name FROM ledger.views").fetchall()}
            now = datetime.now(UTC).replace(tzinfo=None)
            starts = prepare(con, plans, logs, self._settings, now, partial(read_records, self._settings))
        for name in sorted(known - set(plans)):
            self._console.print(
                f"[yellow]view {name} was dropped[/]: {self._views_dir or 'sql/views'} has no {name}.sql; "
                "with the file back it is built anew from the retained log"
            )
        if self._until_end:
            ends = {(t, p): high for t, log in logs.items() for p, (_, high) in log.ranges.items()}
            # Not beyond the ends of before a restart, nor of a log that lost its end unread: it would be waited for.
            self._until = {k: min(high, (self._until or ends).get(k, high)) for k, high in ends.items()}
            starts = [bounded(s, self._until) for s in starts]
        # A broker of today gives its topics ids, and waits with the answer to a fetch; the embedded one does neither.
        rests = embedded is not None or any(log.topic_id is None for log in logs.values())
        job = Job(self._settings, plans, starts, self._workers, 0, embedded, rests)
        path = self._settings.run_dir / "job.pickle"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            pickle.dump(job, file)
        return path

    def _supervise(self, job_file: Path) -> int:
        addresses = free_addresses(self._workers)
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dataflows", str(job_file), str(i), *addresses],
                # A session of their own: Ctrl-C reaches the supervisor alone, which asks them to end.
                start_new_session=True,
                # Bytewax and Rust tell of lost connections on stdout, which is for results.
                stdout=2,
                # They die when this pipe closes, and hold the lock until then: a killed supervisor
                # leaves no writer behind, and no second stream begins beside one.
                stdin=subprocess.PIPE,
                pass_fds=[self._lock],
            )
            for i in range(self._workers)
        ]
        asked = None
        with Progress(self._settings, self._console, self._until) as progress:
            try:
                while True:
                    codes = [p.poll() for p in processes]
                    if all(code == 0 for code in codes):
                        return 0
                    if asked is not None and -signal.SIGTERM in codes:
                        # Asked before it could listen: the cluster was not complete, and nothing was read.
                        return 0
                    failed = [code for code in codes if code]
                    if failed:
                        # An error that the user can mend was printed by the process that met it.
                        return 1 if 1 in failed else abs(failed[0])
                    if self._stopping and asked is None:
                        self._before_stop()
                        asked = time.monotonic()
                        for p in processes:
                            p.terminate()
                    if asked is not None and time.monotonic() - asked > GRACE:
                        self._console.print("[yellow]no last commit in time; the one before it stands[/]")
                        return 1
                    progress.update()
                    time.sleep(0.05)
            finally:
                end_all(processes)


def bounded(start: PartitionStart, until: dict[tuple[str, int], int]) -> PartitionStart:
    """The same start, ending where the log ended when the run began."""
    return replace(start, until=max(start.live_from, until.get((start.topic, start.partition), start.live_from)))


def end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kills what still lives: without its siblings a process of the cluster waits for ever."""
    for p in processes:
        if p.poll() is None:
            p.kill()
    for p in processes:
        p.wait()


def free_addresses(n: int) -> list[str]:
    """Loopback addresses that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    try:
        return [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    finally:
        for s in sockets:
            s.close()
