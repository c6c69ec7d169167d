"""What a power cut leaves: an event file cut at any byte, and a checkpoint that is not whole."""

from __future__ import annotations

import json
import os

import pytest

from studio.recipe import Recipe
from studio.runs import EventLog, Run, RunSnapshot

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run() -> Run:
    """A run with a last kilobyte of events of every kind, with characters of several bytes."""
    made = Run.create(Recipe(name="torn"))
    log = EventLog(made.events_path)
    log.write("started", max_steps=30, notes=["é", "漢字", "🙂"])
    for step in range(1, 31):
        log.write("step", step=step, loss=1 / step, learning_rate=1e-3, tokens=step)
        if step % 10 == 0:
            log.write("eval", step=step, loss=2 / step)
            log.write("checkpoint", step=step, path=f"checkpoints/checkpoint-{step}")
            log.write("warning", what="Zeilen sind länger als erlaubt 🙂", fix="漢字")
    log.close()
    return made


def test_cut_at_every_byte_of_its_last_kilobyte_the_file_keeps_every_whole_line_and_takes_more(run):
    whole = run.events_path.read_bytes()
    assert len(whole) > 2048
    for length in range(len(whole) - 1024, len(whole) + 1):
        run.events_path.write_bytes(whole[:length])
        kept = [json.loads(line) for line in whole[: whole[:length].rfind(b"\n") + 1].splitlines()]
        assert run.events() == kept
        assert run.status == "queued"
        log = EventLog(run.events_path)
        log.write("step", step=31, loss=0.5)
        log.close()
        after = run.events()
        assert after[-1]["step"] == 31
        read = after[:-1]
        # a line of which only the line end was missing is a whole one, once something was written behind it
        assert read == kept or read == [*kept, json.loads(whole[:length].splitlines()[-1])]
        assert RunSnapshot().add(after).step == 31


def test_zeros_where_the_disk_had_not_yet_written_are_passed_over(run):
    """A file system may keep the length of a file and lose the end of its content."""
    whole = run.events_path.read_bytes()
    torn = whole[:-700] + b"\0" * 700
    run.events_path.write_bytes(torn)
    kept = [json.loads(line) for line in torn[: torn[:-700].rfind(b"\n") + 1].splitlines()]
    assert run.events() == kept
    log = EventLog(run.events_path)
    log.write("stopped", step=30)
    log.close()
    assert run.events() == [*kept, run.events()[-1]]
    assert run.status == "stopped"


@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_a_clock_that_jumps_changes_no_status(run, seconds, monkeypatch):
    import time

    from studio.jobs import process

    run.claim()
    process.write(run.folder / "process.json", process.describe(os.getpid(), ["me"]))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    assert run.status == "running"
    view = run.view()
    left = view.seconds_left(time.time())
    assert left is None or left >= 0
