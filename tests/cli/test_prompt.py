"""The prompt of `tally sql`, as a person has it: a terminal, lines, a history, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallystream.database import connect
from tallystream.settings import PROJECT
from tallystream.warehouse.schema import migrate

PATIENCE = 60.0
ENDLESS = "SELECT count(*) FROM range(100000000000000);"
COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Prompt:
    """A `tally sql` on a terminal of its own."""

    def __init__(self) -> None:
        self._fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tallystream.cli", "sql"],
            cwd=PROJECT, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
            start_new_session=True, preexec_fn=lambda: _controlling(theirs),
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def see(self, text: str) -> None:
        """Waits until the terminal shows it, and forgets what was shown up to there."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < deadline and self.process.poll() is None, (text, self.shown)
            self.look()
        self.shown = self.shown.partition(text)[2]

    def look(self) -> None:
        """Reads what has come within a moment."""
        if select.select([self._fd], [], [], 0.5)[0]:
            data = os.read(self._fd, 65536)
            if b"\x1b[6n" in data:  # where is the cursor?
                os.write(self._fd, b"\x1b[1;1R")
            self.shown += COLOURS.sub("", data.decode(errors="replace"))

    def query_runs(self) -> None:
        """Until the query computes: Ctrl-C ends a line before that, and a key while the line is edited."""
        begun, deadline = self._cpu_ticks(), time.monotonic() + PATIENCE
        while self._cpu_ticks() < begun + 50:
            assert time.monotonic() < deadline, self.shown
            self.look()

    def _cpu_ticks(self) -> int:
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return int(user) + int(system)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)


def _controlling(fd: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


@pytest.fixture
def prompt(home) -> Iterator[Prompt]:
    home.mkdir(parents=True)
    with connect(home / "tally.duckdb") as con:
        migrate(con)
    made = Prompt()
    yield made
    made.close()


def test_a_conversation(prompt, home):
    prompt.see("tally>")
    prompt.type("SELECT 41 +\r")
    prompt.see("...>")
    prompt.type("1 AS answer;\r")
    prompt.see("answer")
    prompt.see("42")
    prompt.see("tally>")
    prompt.type("SELECT nothing_of_it FROM late_events;\r")
    prompt.see("error:")
    prompt.see("LINE 1")
    prompt.type("SELECT 1 +\r")
    prompt.see("...>")
    prompt.type("\x03")  # of a line begun, it is the end of it
    prompt.see("tally>")
    prompt.type(ENDLESS + "\r")
    prompt.query_runs()
    prompt.type("\x03")
    prompt.see("the query was cancelled")
    prompt.see("tally>")
    prompt.type(r"\d late_events" + "\r")
    prompt.see("event_time")
    prompt.see("tally>")
    prompt.type("\x04")
    assert prompt.process.wait(PATIENCE) == 0
    assert "SELECT 41 +" in (home / "sql_history").read_text()
