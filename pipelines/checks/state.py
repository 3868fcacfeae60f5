"""What the stream is doing now, as checks and sensors judge it: the same verdict from both."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from pipelines.tally import now
from tallystream.errors import TallyError
from tallystream.settings import Settings
from tallystream.topics import broker
from tallystream.warehouse.status import COUNTS, collect

LAG_WARN, LAG_FAIL = 50_000, 1_000_000  # messages of a topic: a second of full speed; half a minute of it
DEAD_WARN, DEAD_FAIL = 0.01, 0.05  # share of the messages since the last look
DEAD_LEAST = 20  # fewer dead letters are no spike, whatever their share
STALLED = 300.0  # seconds without a commit, with messages waiting


@dataclass(frozen=True)
class Verdict:
    """One judgement: passed, or how bad, in a sentence with numbers."""

    passed: bool
    severity: dg.AssetCheckSeverity
    sentence: str
    numbers: dict[str, float | int]

    @property
    def level(self) -> str:
        """ok, warn or error."""
        if self.passed:
            return "ok"
        return "warn" if self.severity is dg.AssetCheckSeverity.WARN else "error"

    def result(self, **kwargs: Any) -> dg.AssetCheckResult:
        """For an asset check."""
        return dg.AssetCheckResult(
            passed=self.passed, severity=self.severity, description=self.sentence, metadata=self.numbers, **kwargs
        )


def look(settings: Settings) -> dict[str, Any] | None:
    """`tally status`, without starting anything: None when no broker of this TALLY_HOME runs or answers."""
    if settings.bootstrap_servers is None and broker.status(settings) is None:
        return None
    try:
        return collect(settings)
    except TallyError:
        return None


def of_topic(found: dict[str, Any], topic: str) -> dict[str, int]:
    """Lag and accounts of a topic, added up over its partitions."""
    parts = [p for p in found["partitions"] if p["topic"] == topic]
    return {c: sum(p[c] for p in parts) for c in ("lag", "log_end", "position", *COUNTS)}


def judge_lag(found: dict[str, Any], topic: str) -> Verdict:
    """How many messages wait."""
    lag = of_topic(found, topic)["lag"]
    bad = dg.AssetCheckSeverity.ERROR if lag >= LAG_FAIL else dg.AssetCheckSeverity.WARN
    return Verdict(lag < LAG_WARN, bad, f"{lag:,} messages of {topic} wait to be tallied", {"lag": lag})


def judge_running(found: dict[str, Any], topic: str) -> Verdict:
    """A stream runs, or nothing waits for one."""
    lag, running = of_topic(found, topic)["lag"], found["stream"] == "running"
    age = commit_age(found)
    told = f"{lag:,} messages of {topic} wait"
    numbers: dict[str, float | int] = {"lag": lag} | ({} if age is None else {"last_commit_age_seconds": round(age, 1)})
    if not running:
        sentence = f"no stream runs and {told}: start `tally run`" if lag else "no stream runs; nothing waits for it"
        return Verdict(lag == 0, dg.AssetCheckSeverity.ERROR, sentence, numbers)
    stalled = lag > 0 and age is not None and age > STALLED
    sentence = (
        f"the stream runs, but committed nothing for {age:.0f} s while {told}" if stalled and age else "the stream runs"
    )
    return Verdict(not stalled, dg.AssetCheckSeverity.ERROR, sentence, numbers)


def judge_dead(now_: dict[str, int], before: dict[str, int] | None, topic: str) -> Verdict:
    """The share of dead letters since the last look; without one, of all."""
    base = before if before and before["consumed"] <= now_["consumed"] else {"consumed": 0, "dead": 0}
    consumed, dead = now_["consumed"] - base["consumed"], now_["dead"] - base["dead"]
    share = dead / consumed if consumed else 0.0
    spike = dead >= DEAD_LEAST and share >= DEAD_WARN
    bad = dg.AssetCheckSeverity.ERROR if share >= DEAD_FAIL else dg.AssetCheckSeverity.WARN
    sentence = f"{dead:,} of {consumed:,} messages of {topic} are dead letters ({share:.2%})"
    if spike:
        sentence += '; `tally sql "SELECT reason, count(*) FROM dead_letters GROUP BY ALL"` tells why'
    return Verdict(not spike, bad, sentence, {"dead": dead, "consumed": consumed, "share": round(share, 6)})


def commit_age(found: dict[str, Any]) -> float | None:
    """Seconds since the last commit."""
    last = found["last_commit"]
    if not last:
        return None
    return (now() - datetime.fromisoformat(last["committed_at"].rstrip("Z"))).total_seconds()
