"""Reports of topics and views: numbers over time, every other minute, and not a single run."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.catalog import catalog, topic_key, view_key
from pipelines.checks.state import COUNTS, commit_age, look, of_topic
from pipelines.tally import Tally, now
from tallystream.settings import TOPICS
from tallystream.views.plan import quote
from tallystream.warehouse.read import open_reader

EVERY = 120  # seconds: each look is some fifty kilobytes of Dagster's history


@dg.sensor(
    name="observe_views",
    minimum_interval_seconds=EVERY,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Watermark, lag, rows, accounts of each live view, every other minute.",
)
def observe_views(context: dg.SensorEvaluationContext, tally: Tally) -> dg.SensorResult | dg.SkipReason:
    """The cursor is the last commit reported: a view that neither moved nor waits is reported as it is.

    A view that waits while no commit comes gets no report, and its freshness policy goes red.
    """
    settings = tally.settings()
    found = look(settings)
    if found is None:
        return dg.SkipReason("no broker answers; nothing was asked of it")
    last = found["last_commit"]
    if last is None:
        return dg.SkipReason("nothing was tallied yet")
    live = {v["name"] for v in found["views"] if v["status"] == "live"} & set(catalog().views)
    if not live:
        return dg.SkipReason("no view is built yet")
    count = ", ".join(f"(SELECT count(*) FROM {quote(name)})" for name in sorted(live))
    with open_reader(settings) as reader:
        rows = dict(zip(sorted(live), reader.rows(f"SELECT {count}")[2][0], strict=True))
    moved = str(last["id"]) != context.cursor
    events: list[dg.AssetObservation | dg.AssetMaterialization] = [
        dg.AssetObservation(topic_key(t), metadata={k: of_topic(found, t)[k] for k in ("log_end", "lag", *COUNTS)})
        for t in TOPICS
    ]
    for name in sorted(live):
        metadata = _facts(found, name, rows[name])
        if moved or not metadata["lag"]:
            events.append(
                dg.AssetMaterialization(view_key(name), metadata=metadata, tags={"tally/commit": str(last["id"])})
            )
    return dg.SensorResult(asset_events=events, cursor=str(last["id"]))


def _facts(found: dict[str, Any], name: str, rows: int) -> dict[str, Any]:
    topics = catalog().views[name].topics
    sums = [of_topic(found, t) for t in topics]
    facts: dict[str, Any] = {"dagster/row_count": rows, **{k: sum(s[k] for s in sums) for k in ("lag", *COUNTS)}}
    facts["last_commit"] = found["last_commit"]["id"]
    age = commit_age(found)
    if age is not None:
        facts["last_commit_age_seconds"] = round(age, 1)
    marks = [found["watermarks"][t] for t in topics]
    if all(marks):
        watermark = min(datetime.fromisoformat(m.rstrip("Z")) for m in marks)
        # Once for people, once for the plots: they draw whole and floating numbers, and no times.
        facts["watermark"] = dg.MetadataValue.timestamp(watermark.replace(tzinfo=UTC))
        facts["watermark_epoch_seconds"] = watermark.replace(tzinfo=UTC).timestamp()
        facts["watermark_age_seconds"] = round((now() - watermark).total_seconds(), 1)
    return facts
