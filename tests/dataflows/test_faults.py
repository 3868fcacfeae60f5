"""What a process of the flow leaves with, and what the supervisor makes of it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dataflows import faults
from tallystream.cli import supervise
from tallystream.errors import BrokerRestartedError, ContractError, WarehouseError
from tallystream.settings import PROJECT, Settings
from tests.recovery.killed import patient


@pytest.fixture
def left(monkeypatch):
    class Left(Exception):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(faults.os, "_exit", leave)
    return Left


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ContractError("no such schema"), 1, "error: no such schema\n"),
        (BrokerRestartedError("started again"), 75, "error: started again\n"),
        (KeyError("ours"), 70, "KeyError: 'ours'\n"),
        (MemoryError(), 70, "MemoryError\n"),
    ],
)
def test_each_error_has_its_code(error, code, told, left, capfd):
    def step():
        raise error

    with pytest.raises(left) as found:
        faults.guarded(step)()
    assert found.value.args == (code,)
    err = capfd.readouterr().err
    assert err.endswith(told)
    assert ("Traceback" in err) == (code == 70)


def test_an_error_of_ours_is_found_inside_another(left, capfd):
    def step():
        try:
            raise WarehouseError("the disk is full")
        except WarehouseError as error:
            raise RuntimeError("snapshot") from error

    with pytest.raises(left):
        faults.guarded(step)()
    assert capfd.readouterr().err == "error: the disk is full\n"


def test_the_end_of_a_source_is_no_fault():
    def step():
        raise StopIteration

    with pytest.raises(StopIteration):
        faults.guarded(step)()
    assert faults.guarded(lambda: 7)() == 7


def test_a_process_that_cannot_even_begin_says_that_it_crashed(tmp_path):
    command = [sys.executable, "-m", "dataflows", str(tmp_path / "no.pickle"), "0"]
    # Its stdin stays open: it dies when its supervisor's end closes.
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "FileNotFoundError" in process.stderr.read()
        assert process.wait(30) == 70


class Scripted(supervise.Supervisor):
    """Its processes leave with these codes, one start after the other."""

    def __init__(self, home: Path, codes: list[int]):
        super().__init__(Settings(home=home), None, 1, True, Console(file=io.StringIO()))
        self.codes = codes

    def _prepare(self) -> Path:
        return Path("job")

    def _supervise(self, job_file: Path) -> int:
        return self.codes.pop(0)


@pytest.mark.parametrize(
    ("codes", "result", "left_over"),
    [
        ([0, 9], 0, 1),
        ([1, 0], 1, 1),  # a person can mend it
        ([70, 75, 9, 0], 0, 0),
        ([70] * 6 + [0], 1, 1),
    ],
)
def test_what_may_pass_is_tried_again_from_the_last_commit(tmp_path, monkeypatch, codes, result, left_over):
    with patient(monkeypatch):
        monkeypatch.setattr(supervise, "RESTARTS", 5)
        scripted = Scripted(tmp_path, codes)
        assert scripted.run() == result
    assert len(scripted.codes) == left_over
