"""By which rules a partition was judged: who reads it again, for a new view or a replay, must judge it so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tallystream.topics.judge import Rules

Key = tuple[str, int]
SECOND = 1_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class RuleHistory:
    """(from_offset, rules) ascending, at least one: each holds up to the next one's offset, the first before its own too."""

    steps: tuple[tuple[int, Rules], ...]

    def at(self, offset: int) -> Rules:
        """The rules by which the message at `offset` was judged."""
        return next((rules for begins, rules in reversed(self.steps) if begins <= offset), self.steps[0][1])

    def next_change(self, offset: int) -> int | None:
        """The first offset after `offset` that other rules judge; a batch may not cross it. None: there is none."""
        return next((begins for begins, _ in self.steps[1:] if begins > offset), None)


def histories(rows: Iterable[tuple[str, int, int, int, int, int]]) -> dict[Key, RuleHistory]:
    """By partition, of rows of ledger.rules: topic, partition, from_offset, lateness, horizon, max_ahead (seconds)."""
    steps: dict[Key, list[tuple[int, Rules]]] = {}
    for topic, partition, begins, *seconds in sorted(rows):
        lateness, horizon, ahead = (s * SECOND for s in seconds)
        steps.setdefault((topic, partition), []).append((begins, Rules(lateness, horizon, ahead)))
    return {key: RuleHistory(tuple(found)) for key, found in steps.items()}
