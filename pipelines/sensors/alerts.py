"""Lag, a stream that is down, a spike of dead letters: told once when they begin, get worse and end.

A sensor that repeated its warning at each look would write 1,440 of them a day, and nobody would read the one that
matters. The cursor keeps the level that was told last.
"""

import json
from collections.abc import Callable
from typing import Any

import dagster as dg

from pipelines.catalog import topic_key
from pipelines.checks.state import Verdict, judge_dead, judge_lag, judge_running, look, of_topic
from pipelines.sensors.tell import tell
from pipelines.tally import Tally
from tallystream.settings import TOPICS

LOOK = 30  # seconds between two looks
Judge = Callable[[dict[str, Any], str, dict[str, Any]], Verdict]


def _sensor(
    name: str, check: str, description: str, judge: Judge, keep: Callable[[dict[str, Any]], dict[str, Any]]
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name, minimum_interval_seconds=LOOK, default_status=dg.DefaultSensorStatus.RUNNING, description=description
    )
    def watch(context: dg.SensorEvaluationContext, tally: Tally) -> dg.SensorResult | dg.SkipReason:
        settings = tally.settings()
        found = look(settings)
        if found is None:
            return dg.SkipReason("no broker answers; nothing was asked of it")
        before: dict[str, Any] = json.loads(context.cursor or "{}")
        levels: dict[str, str] = before.get("levels", {})
        evaluations = []
        for topic in TOPICS:
            verdict = judge(found, topic, before.get("seen", {}))
            if verdict.level == levels.get(topic, "ok"):
                continue
            levels[topic] = verdict.level
            tell(settings, name, verdict.level, verdict.sentence, context.log)
            evaluations.append(
                dg.AssetCheckEvaluation(
                    asset_key=topic_key(topic),
                    check_name=check,
                    passed=verdict.passed,
                    severity=verdict.severity,
                    description=verdict.sentence,
                    metadata=verdict.numbers,
                )
            )
        return dg.SensorResult(
            asset_events=evaluations, cursor=json.dumps({"levels": levels, "seen": keep(found)}, sort_keys=True)
        )

    return watch


def _dead(found: dict[str, Any], topic: str, seen: dict[str, Any]) -> Verdict:
    return judge_dead(of_topic(found, topic), seen.get(topic), topic)


lag = _sensor(
    "lag",
    "lag",
    "Messages that wait: a warning, then a failed check.",
    lambda found, topic, _: judge_lag(found, topic),
    lambda _: {},
)
stream_down = _sensor(
    "stream_down",
    "stream_running",
    "No stream runs while messages wait, or it commits nothing. Restarts are the supervisor's; this one tells.",
    lambda found, topic, _: judge_running(found, topic),
    lambda _: {},
)
dead_letter_spike = _sensor(
    "dead_letter_spike",
    "dead_letter_rate",
    "The share of dead letters since the last look.",
    _dead,
    lambda found: {t: {k: of_topic(found, t)[k] for k in ("consumed", "dead")} for t in TOPICS},
)
