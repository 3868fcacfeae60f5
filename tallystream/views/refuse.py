"""Refusals: what cannot be kept, where it stands in the file, and what to do instead."""

from __future__ import annotations

import re
from pathlib import Path

from tallystream.errors import ViewError


class Refusal:
    """Makes ViewErrors that name the file and the line."""

    def __init__(self, path: Path, sql: str):
        self.name = path.name
        # Comments and what stands in quotes are no place to point at.
        bare = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), sql, flags=re.DOTALL)
        self._lines = [re.sub(r"'[^']*'", "''", line).split("--")[0] for line in bare.splitlines()] or [""]

    def line(self, text: str) -> int:
        """The first line outside comments that has `text`; 1 when none has."""
        first = text.split("(")[0].strip() or text.strip()
        wanted = re.compile(rf"(?<!\w){re.escape(first)}(?!\w)", re.IGNORECASE)
        for number, line in enumerate(self._lines, 1):
            if wanted.search(line):
                return number
        return 1

    def __call__(self, construct: str, why: str, advice: str) -> ViewError:
        """`construct` as it stands in the file."""
        return ViewError(f"{self.name}:{self.line(construct)}: {construct}: {why}; {advice}")
