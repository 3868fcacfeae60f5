"""Dagster beside a stream: its home under TALLY_HOME, its web UI on 127.0.0.1, ended with the stream."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import Any

import httpx

from tallystream.cli.processes import become_child, end_session, mark_of_self
from tallystream.errors import TallyError
from tallystream.settings import PROJECT, Settings

RUNS = 20.0  # seconds for runs in flight to end as cancelled: a step stops where it is, after its query
STOP = 75.0  # seconds: Dagster gives its own processes 60
LEFT = 10.0  # seconds for code servers, which notice that Dagster has gone by themselves
IN_FLIGHT = """
    { runsOrError(filter: {statuses: [NOT_STARTED, QUEUED, STARTING, STARTED, CANCELING]}) {
        ... on Runs { results { runId status } } } }
"""
TERMINATE = """
    mutation ($runs: [String!]!) { terminateRuns(runIds: $runs, terminatePolicy: SAFE_TERMINATE) { __typename } }
"""


def installed() -> bool:
    """Whether Dagster is here, without importing it: that takes seconds."""
    return importlib.util.find_spec("dagster") is not None and importlib.util.find_spec("dagster_webserver") is not None


class ControlPlane:
    """`dagster dev` of this project, as a child that dies with its parent."""

    def __init__(self, settings: Settings, port: int | None = None):
        self._settings = settings
        self.home = settings.root / "dagster"
        self.log = self.home / "dagster.log"
        self.url = f"http://127.0.0.1:{port or _free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; it answers some ten seconds later."""
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / "dagster.yaml", self.home / "dagster.yaml")
        command = [sys.executable, "-m", "dagster", "dev", "-w", str(PROJECT / "workspace.yaml")]
        command += ["-h", "127.0.0.1", "-p", self.url.rsplit(":", 1)[1]]
        environment = {
            **os.environ,
            "TALLY_HOME": str(self._settings.root),
            "DAGSTER_HOME": str(self.home),
        } | mark_of_self()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches the parent alone, which ends the children in order.
                start_new_session=True,
                preexec_fn=become_child,
            )

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Whether its web UI answers."""
        try:
            return httpx.get(f"{self.url}/server_info", timeout=1.0).is_success
        except httpx.HTTPError:
            return False

    def wait(self, seconds: float) -> None:
        """Returns when the UI answers.

        Raises:
            TallyError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while not self.ready():
            if not self.alive() or time.monotonic() > deadline:
                raise TallyError(f"Dagster did not come up at {self.url}; {self.log} tells why")
            time.sleep(0.1)

    def stop(self) -> int | None:
        """Ends it in good order: its runs first, then its services; after a while, hard. Returns its exit code.

        Dagster itself leaves a run in flight, with its code server, until it is done: without the cancelling a
        replay would go on for hours after the stream and its broker, and promote then.
        """
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._cancel_runs(time.monotonic() + RUNS)
            self._process.terminate()
            try:
                self._process.wait(STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        end_session(self._process.pid, LEFT)
        return self._process.returncode

    def _cancel_runs(self, deadline: float) -> None:
        """Cancels what is queued or running, and waits for it; what does not answer is ended with its session."""
        try:
            while time.monotonic() < deadline:
                runs = self._ask(IN_FLIGHT)["runsOrError"]["results"]
                if not runs:
                    return
                # Asked again while they do not say so: one that is just starting cannot be cancelled yet.
                waiting = [r["runId"] for r in runs if r["status"] != "CANCELING"]
                if waiting:
                    self._ask(TERMINATE, runs=waiting)
                time.sleep(0.5)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=10.0)
        found: dict[str, Any] = answer.raise_for_status().json()["data"]
        return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
        return port
