"""Dagster beside a stream: its home under TALLY_HOME, its web UI on 127.0.0.1, ended with the stream."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tallystream.errors import TallyError
from tallystream.settings import PROJECT, Settings

STOP = 75.0  # seconds: Dagster gives its own processes 60
PR_SET_PDEATHSIG = 1


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
        environment = {**os.environ, "TALLY_HOME": str(self._settings.root), "DAGSTER_HOME": str(self.home)}
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
        """Ends it in good order, its runs and servers too; after a while, hard. Returns its exit code."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        return self._process.returncode


def become_child() -> None:
    """Runs in a new child before its program: signals as a person's shell would have them, and death with the parent.

    A script's `tally up &` ignores SIGINT, children inherit that, and Dagster gives SIGTERM the handler of SIGINT:
    it could then only be killed. A parent that was killed can end nobody, so the kernel tells its children.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _find_prctl() -> ctypes._NamedFuncPointer | None:
    try:
        found = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return found if Path("/proc").exists() else None


# Looked up before a fork: after it, loading a library may wait for ever for a lock that another thread held.
_prctl = _find_prctl()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
        return port
