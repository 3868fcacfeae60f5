"""What Prometheus reads of the writer: accounts, positions, commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tallystream.topics.batch import Delta

RECENT = 1000  # commits whose durations health tells
COMMIT_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class Metrics:
    """Counters of one writer process; they begin at zero with it, the ledger does not."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._events = Counter(
            "tallystream_events",
            "Messages committed, by account",
            ["topic", "partition", "account"],
            registry=self.registry,
        )
        self._position = Gauge(
            "tallystream_position", "Next offset to be committed", ["topic", "partition"], registry=self.registry
        )
        self._commits = Counter("tallystream_commits", "Transactions committed", registry=self.registry)
        self._starved = Counter(
            "tallystream_commits_out_of_memory", "Commits tried again for lack of memory", registry=self.registry
        )
        self._seconds = Histogram(
            "tallystream_commit_seconds", "Duration of a commit", buckets=COMMIT_SECONDS, registry=self.registry
        )

    def committed(self, deltas: Sequence[Delta], seconds: float) -> None:
        """Counts one commit that has succeeded; builds of views are no events."""
        self._commits.inc()
        self._recent.append(seconds)
        self._seconds.observe(seconds)
        for d in deltas:
            if d.building:
                continue
            labels = d.topic, str(d.partition)
            accounts = {
                "applied": d.applied,
                "duplicate": d.duplicate,
                "late": d.late.num_rows,
                "dead": d.dead.num_rows,
                "shed": d.shed,
            }
            for account, n in accounts.items():
                self._events.labels(*labels, account).inc(n)
            self._position.labels(*labels).set(d.next)

    def out_of_memory(self) -> None:
        """Counts one commit that was rolled back because a query had all memory."""
        self._starved.inc()

    def commit_seconds(self) -> dict[str, float] | None:
        """Median, 99th percentile and maximum of the recent commits; None before the first."""
        if not self._recent:
            return None
        p50, p99, most = np.percentile(list(self._recent), [50, 99, 100])
        return {"p50": round(float(p50), 4), "p99": round(float(p99), 4), "max": round(float(most), 4)}
