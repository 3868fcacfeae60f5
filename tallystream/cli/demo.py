"""`make demo`: the main job on synthetic events, each step as the command that a user would type."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from tallystream import settings as environment
from tallystream.cli.status import ACCOUNTS, show
from tallystream.errors import TallyError, UsageError
from tallystream.settings import Settings
from tallystream.topics import broker

EVENTS = 300_000
SEED = 7
MARK = ".demo"  # tells a home that a demo made, and may remove, from one that somebody works in
VIEWS = {
    "Orders and revenue of each minute": """
        SELECT window_start, currency, orders, revenue_cents, is_final
        FROM revenue_per_minute ORDER BY window_start DESC, currency LIMIT 6""",
    "The best products of five minutes": """
        SELECT window_start, window_end, product_id, views FROM top_products
        ORDER BY views DESC, product_id LIMIT 5""",
}


def demo(settings: Settings, console: Console) -> None:
    """Broker, events, the flow to their end, two views, the accounts, and what to try next.

    Raises:
        UsageError: TALLY_HOME holds something that no demo made.
        TallyError: a step failed, or the accounts do not balance.
    """
    began = time.monotonic()
    _fresh(settings)
    try:
        tally(console, "broker", "start")
        options = ["--duplicates", "0.01", "--disorder", "30", "--malformed", "12"]
        tally(console, "generate", "--events", str(EVENTS), "--seed", str(SEED), *options)
        running = time.monotonic()
        tally(console, "run", "--until-end")
        took = time.monotonic() - running
        for title, sql in VIEWS.items():
            console.print()
            _print_view(console, title, " ".join(sql.split()))
        found = json.loads(_answer("status", "--json"))
    finally:
        broker.stop(settings)
    console.print()
    show(found, console)
    totals = {a: sum(p[a] for p in found["partitions"]) for a in ACCOUNTS}
    if not found["balanced"] or any(p["lag"] for p in found["partitions"]):
        raise TallyError("the accounts do not balance, or the flow stopped before the end of the log")
    console.print(
        f"\nEvery message is in one account: {totals['consumed']:,} consumed = "
        + " + ".join(f"{totals[a]:,} {a}" for a in ACCOUNTS[1:])
    )
    rate = totals["consumed"] / took
    console.print(
        f"{totals['consumed']:,} messages tallied in {took:.1f} s, start and stop of the flow included: "
        f"{rate:,.0f} a second. The demo took {time.monotonic() - began:.0f} s."
    )
    home = f"TALLY_HOME={environment.load().home}"
    console.print(
        f"\nAsk it yourself:    [bold]{home} .venv/bin/tally sql[/]\n"
        f"What was refused:   [bold]{home} .venv/bin/tally sql "
        '"SELECT topic, reason, count(*) FROM dead_letters GROUP BY ALL"[/]\n'
        "The endless stream: [bold]make dev[/], and query it from another terminal"
    )


def tally(console: Console, *arguments: str) -> None:
    """Shows a command and runs it.

    Raises:
        TallyError: it failed.
    """
    console.print(f"[bold]$ tally {' '.join(arguments)}[/]", highlight=False)
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", "tallystream.cli", *arguments], check=False).returncode
    if code:
        raise TallyError(f"`tally {' '.join(arguments)}` failed with exit code {code}")


def _answer(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "tallystream.cli", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise TallyError(f"`tally {arguments[0]}` failed: {done.stderr.strip()}")
    return done.stdout


def _print_view(console: Console, title: str, sql: str) -> None:
    rows: list[dict[str, Any]] = json.loads(_answer("sql", "--format", "json", sql))
    if not rows:
        raise TallyError(f"the demo expected rows of: {sql}")
    table = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int) else "left")
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    console.print(f'[bold]$ tally sql "{sql}"[/]', highlight=False)
    console.print(table)


def _fresh(settings: Settings) -> None:
    """A demo begins with an empty home: counting an earlier one's events again would confuse."""
    if settings.root.exists() and any(settings.root.iterdir()):
        if not (settings.root / MARK).exists():
            raise UsageError(f"{settings.root} was not made by a demo; choose an empty TALLY_HOME for it")
        broker.stop(settings)
        shutil.rmtree(settings.root)
    settings.root.mkdir(parents=True, exist_ok=True)
    (settings.root / MARK).touch()


def main() -> None:
    """The entry point of `make demo`."""
    console = Console()
    try:
        demo(environment.load(), console)
    except TallyError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", markup=True, highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
