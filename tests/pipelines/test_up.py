"""`tally up` as a person has it: broker, shop, stream and Dagster's web UI; a run launched in a browser; a clean end.

With TALLY_SCREENSHOTS=1 the pictures of the README are taken anew, into docs/img.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import httpx
import pyarrow.parquet as pq
import pytest

from tallystream.settings import PROJECT, Settings
from tallystream.topics import broker
from tallystream.views.loader import VIEWS
from tests.pipelines.browser import Browser, browser, missing
from tests.pipelines.conftest import ENVIRONMENT

# Of the control plane, not of the broker: once is enough.
pytestmark = pytest.mark.embedded

GROUPS = ("topics", "views", "archive", "staging", "marts", "recovery")
LAUNCH = """mutation ($asked: ExecutionParams!) { launchRun(executionParams: $asked) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
PATIENCE = 150.0  # seconds for three programs to come up on a busy machine


@dataclass
class Up:
    """A running `tally up`."""

    process: subprocess.Popen[bytes]
    home: Path
    log: Path
    url: str

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home)

    def graphql(self, query: str, **variables: Any) -> Any:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30.0)
        answer.raise_for_status()
        return answer.json()["data"]

    def launch(self, job: str, config: dict[str, Any]) -> str:
        """The run's id."""
        selector = {
            "repositoryName": "__repository__",
            "repositoryLocationName": "tallystream",
            "pipelineName": job,
        }
        asked = {"selector": selector, "runConfigData": config, "mode": "default"}
        answer = self.graphql(LAUNCH, asked=asked)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        found: str = answer["run"]["runId"]
        return found

    def run_status(self, run: str) -> str:
        found: str = self.graphql(f'{{ runOrError(runId: "{run}") {{ ... on Run {{ status }} }} }}')["runOrError"][
            "status"
        ]
        return found

    def sql(self, query: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "tallystream.cli", "sql", "--format", "json", query],
            env={**os.environ, **ENVIRONMENT, "TALLY_HOME": str(self.home)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """Started as a script's background job is: SIGINT is ignored, and Dagster would ignore SIGTERM with it."""
    # Not pytest's folder: its path would be in the pictures.
    folder = Path(tempfile.mkdtemp(prefix="tally-"))
    home = folder / "home"
    log = home.parent / "up.log"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TALLY_", "DAGSTER_"))}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tallystream.cli", "up", "--rate", "200"],
            env={**kept, **ENVIRONMENT, "TALLY_HOME": str(home)},
            stdout=out,
            stderr=out,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (lines := [line for line in log.read_text().splitlines() if line.startswith("ui ")]):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Up(process, home, log, lines[0].split()[-1])
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def picture(window: Browser, name: str, wait: float = 2.0) -> None:
    """One of the README's pictures; only when they are asked for."""
    if os.environ.get("TALLY_SCREENSHOTS"):
        time.sleep(wait)
        window.screenshot(PROJECT / "docs" / "img" / f"{name}.png")


def launch(window: Browser) -> None:
    """Clicks until it counts: while the form is still being checked, the button does nothing."""

    def launched() -> bool:
        if "/runs/" in window.script("return location.pathname"):
            return True
        window.click("//button[contains(., 'Launch Run')]")
        time.sleep(3)
        return False

    window.wait_for("the run", launched)


def test_the_stream_tallies_and_the_control_plane_has_loaded(up: Up) -> None:
    deadline = time.monotonic() + PATIENCE
    while not up.sql("SELECT sum(clicks)::BIGINT AS n FROM clicks_per_minute")[0]["n"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    found = up.graphql(
        "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } } }"
    )
    assert found["workspaceOrError"]["locationEntries"] == [
        {"name": "tallystream", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
    ]
    assert (up.home / "dagster" / "dagster.yaml").read_text() == (PROJECT / "dagster.yaml").read_text()
    assert not list(PROJECT.glob(".tmp_dagster_home*"))


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_a_job_launched_in_a_browser(up: Up, tmp_path: Path) -> None:
    """The asset graph, the launchpad of the replay with its form filled in, the run, and its table of what differs."""
    with browser(tmp_path / "profile", 2600, 2900) as window:
        expanded = ",".join(f"global@global:{group}" for group in GROUPS)
        window.open(f"{up.url}/asset-groups?expanded={expanded}")
        for text in (*GROUPS, "bytewax", "Materialized"):
            window.see(text)
        picture(window, "assets", 8)
        window.open(f"{up.url}/assets/marts/customer_lifetime_value?view=lineage")
        window.see("stg_orders")
        window.resize(1600, 1100)
        window.open(f"{up.url}/locations/tallystream/jobs/replay/playground")
        window.see("time_kind")
        window.script(
            "document.querySelector('.CodeMirror').CodeMirror.setValue(arguments[0])",
            FORM.format(planted(up.home.parent)),
        )
        window.see("mode: diff")
        picture(window, "launchpad")
        launch(window)
        window.see("Success", PATIENCE)
        run = window.script("return location.pathname").rsplit("/", 1)[1]
        window.open(f"{up.url}/runs/{run}?selection=&logs=type%3ASTEP_OUTPUT")
        window.see("changed_cells")
        # The difference itself, a row a changed cell.
        for text in ("replayed", "revenue_cents", "changed"):
            window.see(text)
        window.click("//*[contains(text(), 'View full message')]")
        picture(window, "diff", 3)
    found = up.graphql(f'{{ runOrError(runId: "{run}") {{ ... on Run {{ jobName status runConfigYaml }} }} }}')[
        "runOrError"
    ]
    assert found["jobName"] == "replay" and found["status"] == "SUCCESS" and "mode: diff" in found["runConfigYaml"]
    (table,) = (up.home / "sandboxes").glob("*/diff.parquet")
    assert set(pq.read_table(table)["column"].to_pylist()) == {"revenue_cents"}


def planted(folder: Path) -> Path:
    """A folder of views with a bug: each order counts twice its cents."""
    text = (VIEWS / "revenue_per_minute.sql").read_text()
    (made := folder / "views").mkdir()
    (made / "revenue_per_minute.sql").write_text(text.replace("sum(total_cents)", "sum(2 * total_cents)"))
    return made


def test_sigterm_ends_a_replay_in_flight_and_leaves_nobody_behind(up: Up) -> None:
    """Last in this module. Every process of it, down to the run's own, and the embedded broker; nothing is promoted.

    Dagster alone would leave the run, and its code server with it, until it is done: it would promote after the end.
    """
    before = set((up.home / "sandboxes").glob("*/tally.duckdb"))
    run = up.launch("replay", {"ops": {"replay_range": {"config": {"mode": "promote", "rate": 50}}}})
    deadline = time.monotonic() + PATIENCE
    # Its sandbox is there: it reads.
    while set((up.home / "sandboxes").glob("*/tally.duckdb")) == before:
        assert up.run_status(run) in ("QUEUED", "STARTING", "STARTED") and time.monotonic() < deadline
        time.sleep(0.2)
    children = descendants(up.process.pid)
    assert len(children) >= 6 and any("spawn_main" in command_of(pid) for pid in children)
    up.process.terminate()
    assert up.process.wait(PATIENCE) == 0, up.log.read_text()
    assert [command_of(pid) for pid in children if alive(pid)] == []
    assert broker.status(up.settings) is None
    assert "Dagster services shut down" in (up.home / "dagster" / "dagster.log").read_text()
    assert not (up.home / "run" / "live.json").exists()
    with duckdb.connect(str(up.settings.warehouse), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'promotions'").fetchone() == (0,)
    with dg.DagsterInstance.from_config(str(up.home / "dagster")) as kept:
        found = kept.get_run_by_id(run)
        assert found is not None and found.status is dg.DagsterRunStatus.CANCELED


def test_ctrl_c_ends_stream_shop_and_broker(tmp_path: Path) -> None:
    """The other signal, as a terminal sends it; without Dagster, which takes half a minute."""
    home = tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, "-m", "tallystream.cli", "up", "--no-ui", "--rate", "50"],
        env={**os.environ, **ENVIRONMENT, "TALLY_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (home / "run" / "live.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        children = descendants(process.pid)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert [command_of(pid) for pid in children if alive(pid)] == []
        assert broker.status(Settings(home=home)) is None
    finally:
        process.kill()
        process.wait()


def descendants(pid: int) -> list[int]:
    """All processes below one, by /proc."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        parents.setdefault(int(after[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def alive(pid: int) -> bool:
    """Whether it runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def command_of(pid: int) -> str:
    """What it runs; nothing when it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


FORM = """ops:
  replay_range:
    config:
      mode: diff
      topics: [orders]
      views_dir: {}
"""
