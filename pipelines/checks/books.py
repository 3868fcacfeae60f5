"""Own checks of topics and views: conservation, lag, running, dead letters, volume, freshness, parity, agreement."""

import time
from typing import Any

import dagster as dg

from pipelines.catalog import catalog, topic_key, view_key
from pipelines.checks.state import Verdict, commit_age, judge_dead, judge_lag, judge_running, look, of_topic
from pipelines.tally import Tally, told
from tallystream.errors import BrokerError
from tallystream.settings import TOPICS
from tallystream.warehouse.parity import Compared, parity
from tallystream.warehouse.read import open_reader
from tallystream.warehouse.status import COUNTS

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
SAMPLED = 5  # windows, sessions, matches or keys of each view and run; over a day of hourly runs, 120
TIMES = 10.0  # a volume that many times below or above the usual one is looked at
LEAST_HOURS = 3  # of history, before a volume can be unusual

# The rows of late_events and dead_letters, and the commits, against the accounts: written in one transaction, counted apart.
CONSERVATION = """
    SELECT o.partition, o.consumed, o.applied, o.duplicate, o.late, o.dead, o.shed,
           o.next_offset - o.start_offset + coalesce(r.back, 0) AS stretch,
           coalesce(l.n, 0) AS late_rows, coalesce(d.n, 0) AS dead_rows
    FROM ledger.offsets o
    LEFT JOIN (SELECT topic, partition, count(*) AS n FROM late_events GROUP BY ALL) l USING (topic, partition)
    LEFT JOIN (SELECT topic, partition, count(*) AS n FROM dead_letters GROUP BY ALL) d USING (topic, partition)
    LEFT JOIN (SELECT topic, partition, sum(from_offset - to_offset)::BIGINT AS back FROM ledger.resets GROUP BY ALL) r
        USING (topic, partition)
    WHERE topic = '{topic}' ORDER BY o.partition
"""
VOLUME = """
    WITH hours AS (
        SELECT date_trunc('hour', committed_at) AS hour, sum(consumed) AS messages
        FROM ledger.commits WHERE topic = '{topic}' AND committed_at < date_trunc('hour', now()::TIMESTAMP)
        GROUP BY ALL
    )
    SELECT (SELECT messages FROM hours ORDER BY hour DESC LIMIT 1)::BIGINT AS newest,
           (SELECT avg(messages) FROM (SELECT messages FROM hours ORDER BY hour DESC LIMIT 24 OFFSET 1))::DOUBLE AS usual,
           (SELECT count(*) FROM hours) AS n
"""
# An order in the revenue is an order in the read model; the other way round an OrderCreated may have been late.
AGREEMENT = """
    SELECT (SELECT coalesce(sum(orders), 0) FROM revenue_per_minute)::BIGINT AS in_revenue, (SELECT count(*) FROM order_status) AS known
"""


def topic_checks() -> list[dg.AssetChecksDefinition]:
    """Five for each topic."""
    return [check for topic in TOPICS for check in _of_topic(topic)]


def _of_topic(topic: str) -> list[dg.AssetChecksDefinition]:
    key = topic_key(topic)

    @dg.asset_check(
        asset=key,
        name="conservation",
        description="consumed = applied + duplicate + late + dead + shed, and the rows are there.",
    )
    def conservation(tally: Tally) -> dg.AssetCheckResult:
        with told(), open_reader(tally.settings()) as reader:
            names, _, rows = reader.rows(CONSERVATION.format(topic=topic))
        return judge_conservation(topic, [dict(zip(names, row, strict=True)) for row in rows]).result()

    @dg.asset_check(asset=key, name="lag", description="How many messages wait to be tallied.")
    def lag(tally: Tally) -> dg.AssetCheckResult:
        return judge_lag(_look(tally), topic).result()

    @dg.asset_check(asset=key, name="stream_running", description="A stream runs, or nothing waits for one.")
    def stream_running(tally: Tally) -> dg.AssetCheckResult:
        return judge_running(_look(tally), topic).result()

    @dg.asset_check(
        asset=key, name="dead_letter_rate", description="The share of messages that are no events of the contract."
    )
    def dead_letter_rate(tally: Tally) -> dg.AssetCheckResult:
        return judge_dead(of_topic(_look(tally), topic), None, topic).result()

    @dg.asset_check(asset=key, name="volume", description="The newest whole hour against the 24 before it.")
    def volume(tally: Tally) -> dg.AssetCheckResult:
        with told(), open_reader(tally.settings()) as reader:
            newest, usual, hours = reader.rows(VOLUME.format(topic=topic))[2][0]
        return judge_volume(topic, newest, usual, hours).result()

    return [conservation, lag, stream_running, dead_letter_rate, volume]


def _look(tally: Tally) -> dict[str, Any]:
    with told():
        found = look(tally.settings())
        if found is None:
            raise BrokerError(
                "no broker answers, so nothing can be said of the log; `tally broker start`, or see TALLY_BOOTSTRAP_SERVERS"
            )
        return found


def judge_conservation(topic: str, rows: list[dict[str, int]]) -> Verdict:
    """Nothing is lost silently: each message in one account, each refused one a row."""
    wrong = []
    for r in rows:
        at = f"{topic}/{r['partition']}"
        if r["consumed"] != sum(r[c] for c in COUNTS[1:]):
            wrong.append(f"{at}: {r['consumed']:,} consumed are not the sum of the accounts")
        # Transaction markers and compaction leave holes in the log, but nobody can consume more than there is.
        if r["consumed"] > r["stretch"]:
            wrong.append(f"{at}: {r['consumed']:,} consumed of {r['stretch']:,} offsets")
        for account in ("late", "dead"):
            if r[account] != r[f"{account}_rows"]:
                wrong.append(f"{at}: {r[account]:,} {account}, and {r[f'{account}_rows']:,} rows of them")
    consumed = sum(r["consumed"] for r in rows)
    return Verdict(
        not wrong, ERROR, "; ".join(wrong) or f"{consumed:,} messages, each in one account", {"consumed": consumed}
    )


def judge_volume(topic: str, newest: int | None, usual: float | None, hours: int) -> Verdict:
    """A silent producer looks like a quiet night: say so, and let a person decide."""
    if newest is None or not usual or hours < LEAST_HOURS:
        return Verdict(
            True, WARN, f"{hours} whole hours of {topic} so far: too few to tell what is usual", {"hours": hours}
        )
    passed = usual / TIMES <= newest <= usual * TIMES
    sentence = f"{newest:,} messages of {topic} in the newest hour, {usual:,.0f} in a usual one"
    return Verdict(passed, WARN, sentence, {"newest": newest, "usual": round(usual, 1), "hours": hours})


def view_checks() -> list[dg.AssetChecksDefinition]:
    """Parity and freshness of each view, and that the views of orders agree."""
    found = [check for name in catalog().views for check in _of_view(name)]
    if {"revenue_per_minute", "order_status"} <= set(catalog().views):
        found.append(_agreement())
    return found


def _of_view(name: str) -> list[dg.AssetChecksDefinition]:
    plan = catalog().views[name]

    @dg.asset_check(
        asset=view_key(name),
        name="parity",
        description=f"{SAMPLED} final windows, sessions or matches, or keys, recomputed by the view's own SQL from log and archive.",
    )
    def parity_(context: dg.AssetCheckExecutionContext, tally: Tally) -> dg.AssetCheckResult:
        # Another sample each hour; the same within it, so that a failed check can be run again.
        seed = int(time.time()) // 3600
        with told():
            found = parity(tally.settings(), tally.store(), plan, SAMPLED, seed)
        for example in found.examples:
            context.log.error(example)
        return judge_parity(found).result()

    @dg.asset_check(asset=view_key(name), name="freshness", description="Committed lately, or nothing waits.")
    def freshness(tally: Tally) -> dg.AssetCheckResult:
        found = _look(tally)
        return judge_freshness(found, list(plan.topics)).result()

    return [parity_, freshness]


def judge_parity(found: Compared) -> Verdict:
    """Rows that differ are an error. Nothing compared is no proof: a check that passed then would be believed."""
    if found.skipped is not None:
        return Verdict(False, WARN, f"nothing was compared: {found.skipped}", {"sampled": 0})
    numbers = {"sampled": found.sampled, "rows": found.rows, "events": found.events, "differing": found.differing}
    sentence = (
        f"{found.rows:,} rows of {found.sampled} {found.what}, from {found.events:,} events; {found.differing:,} differ"
    )
    return Verdict(found.differing == 0, ERROR, sentence, dict(numbers))


def judge_freshness(found: dict[str, Any], topics: list[str]) -> Verdict:
    """A view without new events is fresh as long as the log has none either."""
    lag, age = sum(of_topic(found, t)["lag"] for t in topics), commit_age(found)
    if not lag:
        return Verdict(True, WARN, "all that the log has is in the view", {"lag": 0})
    numbers: dict[str, float | int] = {"lag": lag} | ({} if age is None else {"last_commit_age_seconds": round(age, 1)})
    fresh = age is not None and age < 60
    sentence = f"{lag:,} messages wait, the last commit is {'missing' if age is None else f'{age:.0f} s old'}"
    return Verdict(fresh, WARN, sentence, numbers)


def _agreement() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=view_key("order_status"),
        name="agrees_with_revenue",
        description="Every order of the revenue is a known order.",
    )
    def agreement(tally: Tally) -> dg.AssetCheckResult:
        with told(), open_reader(tally.settings()) as reader:
            in_revenue, known = reader.rows(AGREEMENT)[2][0]
        sentence = f"{in_revenue:,} orders in the revenue, {known:,} known"
        return Verdict(in_revenue <= known, WARN, sentence, {"in_revenue": in_revenue, "known": known}).result()

    return agreement
