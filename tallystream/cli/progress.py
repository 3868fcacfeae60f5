"""Progress of a run on stderr, from the writer's health: offsets committed of offsets to read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from tallystream.settings import Settings
from tallystream.warehouse.live import live_address

EVERY = 0.5  # seconds between two looks
PLAIN_EVERY = 10.0  # seconds between two lines where no terminal is


class Progress:
    """A bar in bounded runs on a terminal, a line now and then elsewhere; silent when there is no answer."""

    def __init__(self, settings: Settings, console: Console, until: Mapping[tuple[str, int], int] | None):
        self._settings = settings
        self._console = console
        self._until = until
        self._looked = self._told = time.monotonic()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        """Draws the bar."""
        if self._until is not None and self._console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = RichProgress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("tallying", total=sum(self._until.values()))
        elif self._until is not None:
            self._console.print(f"tallying up to the log's ends: {sum(self._until.values()):,} offsets")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def update(self) -> None:
        """Looks at the writer at most twice a second."""
        now = time.monotonic()
        if now - self._looked < EVERY:
            return
        self._looked = now
        plain = self._bar is None
        if plain and (self._until is None or now - self._told < PLAIN_EVERY):
            return
        position = self._position()
        if position is None:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=position)
        elif self._until is not None:
            self._told = now
            self._console.print(f"tallying: {position:,} of {sum(self._until.values()):,} offsets")

    def _position(self) -> int | None:
        found = live_address(self._settings)
        if found is None:
            return None
        try:
            answer = httpx.get(f"{found['admin']}/health", timeout=1.0).json()
        except (httpx.HTTPError, ValueError):
            return None
        positions: dict[str, int] = answer.get("positions", {})
        return sum(positions.values())
