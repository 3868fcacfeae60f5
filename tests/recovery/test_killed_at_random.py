"""kill -9 at random moments, of whatever there is: processes of the flow, their supervisor, the broker."""

from __future__ import annotations

import os
import random
import signal
import time

from tallystream.errors import WarehouseError
from tallystream.settings import Settings
from tallystream.warehouse.control import open_prepared, run_lock
from tallystream.warehouse.live import live_address
from tests.servers.broker import PATIENCE, Broker, until

from .killed import EPOCH, Hunted, children, compare_all, compare_prefix, patient, stream, tally
from .shop import Publishing, Shop, publish


def test_processes_of_the_flow(fresh_topics, monkeypatch, hunt_seconds):
    settings, seed = fresh_topics(2), time.time_ns() % 10**6
    shop = Shop(seed)
    publish(settings, shop, 300)
    pause = 0.15 if hunt_seconds < 60 else 2.0
    with patient(monkeypatch), Publishing(settings, shop, pause=pause):
        hunted = Hunted(settings, hunt_seconds, seed, workers=2)
        assert hunted.run() == 0, (seed, hunted.told.getvalue())
    assert len(hunted.deaths) >= 2
    assert tally("run", "--until-end", "--workers", "2").returncode == 0
    print(f"seed {seed}: {len(hunted.deaths)} deaths in {hunt_seconds:.0f} s")
    compare_all(settings)


def test_whatever_there_is(broker, fresh_topics, monkeypatch, hunt_seconds):
    """The embedded broker is ended in good order instead: kill -9 may take its log's end (see test_log_went_back)."""
    monkeypatch.setenv("TALLY_EPOCH_MS", str(EPOCH))
    settings, seed = fresh_topics(2), time.time_ns() % 10**6
    shop, dice = Shop(seed), random.Random(seed)
    publish(settings, shop, 300)
    until_time, rounds, victims = time.monotonic() + hunt_seconds, 0, ["flow", "supervisor", "broker"]
    pause = 0.15 if hunt_seconds < 60 else 2.0
    with Publishing(settings, shop, pause=pause):
        while rounds < len(victims) or time.monotonic() < until_time:
            victim = victims[rounds] if rounds < len(victims) else dice.choice(victims)
            rounds += 1
            with stream("--workers", "2") as running:
                until(
                    lambda running=running: (
                        (live_address(settings) or {}).get("pid") in children("dataflows", running.pid)
                    ),
                    f"seed {seed}: the stream serves nothing",
                )
                time.sleep(1.5 * dice.random())
                kill(victim, running.pid, broker, dice)
                time.sleep(2 * dice.random())
                running.kill()
            until(lambda: nobody_holds(settings), f"seed {seed}: a process outlives its supervisor")
            with open_prepared(settings) as con:
                compare_prefix(con, settings)
    ran = tally("run", "--until-end", "--workers", "2")
    assert ran.returncode == 0, ran.stderr
    print(f"seed {seed}: {rounds} rounds in {hunt_seconds:.0f} s")
    compare_all(settings)


def nobody_holds(settings: Settings) -> bool:
    try:
        with run_lock(settings):
            return True
    except WarehouseError:
        return False


def kill(victim: str, supervisor: int, broker: Broker, dice: random.Random) -> None:
    if victim == "flow":
        os.kill(dice.choice(children("dataflows", supervisor)), signal.SIGKILL)
    elif victim == "supervisor":
        os.kill(supervisor, signal.SIGKILL)
    else:
        (broker.kill if broker.name == "kafka" else broker.stop)()
        time.sleep(dice.random())
        assert broker.bootstrap


def test_the_broker_in_mid_stream(broker, fresh_topics):
    """The stream goes on by itself, or ends with a sentence and goes on at the next run."""
    settings, shop = fresh_topics(2), Shop(61)
    address = broker.bootstrap
    publish(settings, shop, 300)
    with stream() as running:
        until(lambda: live_address(settings) is not None, "the stream serves nothing")
        with Publishing(settings, shop):
            time.sleep(1)
            (broker.kill if broker.name == "kafka" else broker.stop)()
            time.sleep(2)
            assert broker.bootstrap == address
            time.sleep(2)
        went_on = running.poll() is None
        if went_on:
            running.terminate()
        _, told = running.communicate(timeout=PATIENCE)
        assert "Traceback" not in told
        assert running.returncode == (0 if went_on else 1), told
        assert went_on or "error:" in told
    with open_prepared(settings) as con:
        compare_prefix(con, settings)
    again = tally("run", "--until-end")
    assert again.returncode == 0, again.stderr
    compare_all(settings)
