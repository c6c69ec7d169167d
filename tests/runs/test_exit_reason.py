"""A worker without a last word: whether the system may have ended it for memory."""

import os

import pytest

from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.runs.exit_reason import killed_for_memory

GB = 10**9
START = {"device": "cpu", "held_bytes": GB, "estimated_memory_bytes": 9 * GB, "free_bytes": 10 * GB}


@pytest.fixture
def ended(home):
    """A run whose worker is gone; ``code`` is how it ended, None if nobody saw it."""

    def make(*held: int, code: int | None = -9, **start) -> Run:
        run = Run.create(Recipe())
        process.write(run.folder / "process.json", process.describe(os.getpid(), []) | {"pid": 2**22 + 1})
        if code is not None:
            process.note_exit(run.folder / "process.json", 2**22 + 1, code)
        log = EventLog(run.events_path)
        log.write("memory", **{**START, **start})
        for number, memory in enumerate(held, 1):
            log.write("step", step=number, memory_bytes=memory)
        log.close()
        assert run.status == "interrupted"
        return run

    return make


def test_a_killed_worker_that_held_nearly_all_memory_may_have_been_ended_for_it(ended):
    killed = killed_for_memory(ended(5 * GB, 10 * GB))
    assert killed.memory_bytes == 10 * GB
    assert "10.0 GB" in killed.what
    assert "may have ended it for memory" in killed.what


def test_a_killed_worker_that_held_little_was_not(ended):
    assert killed_for_memory(ended(2 * GB, 3 * GB)) is None


@pytest.mark.parametrize("code", [1, 0, -11, -15])
def test_a_worker_that_ended_otherwise_was_not(ended, code):
    assert killed_for_memory(ended(10 * GB, code=code)) is None


@pytest.mark.parametrize("code", [None, 137])
def test_an_end_that_nobody_saw_and_a_shells_word_for_it_count_too(ended, code):
    assert killed_for_memory(ended(10 * GB, code=code))


def test_a_worker_that_ended_before_its_first_step_is_judged_by_the_estimate(ended):
    assert killed_for_memory(ended())
    assert killed_for_memory(ended(estimated_memory_bytes=2 * GB)) is None


def test_on_a_gpu_only_the_main_memory_counts(ended):
    run = ended(50 * GB, device="cuda")
    assert killed_for_memory(run) is None
    log = EventLog(run.events_path)
    log.write("memory", memory_bytes=9 * GB)
    log.close()
    assert killed_for_memory(run).memory_bytes == 9 * GB


def test_a_run_that_said_how_it_ended_needs_no_guess(ended):
    run = ended(10 * GB)
    log = EventLog(run.events_path)
    log.write("failed", what="", fix="")
    log.close()
    assert killed_for_memory(run) is None


def test_a_run_of_an_older_studio_has_nothing_to_tell(home):
    run = Run.create(Recipe())
    process.write(run.folder / "process.json", process.describe(os.getpid(), []) | {"pid": 2**22 + 1})
    assert run.status == "interrupted"
    assert killed_for_memory(run) is None


def test_an_exit_is_written_down_for_that_worker_alone(home):
    run = Run.create(Recipe())
    path = run.folder / "process.json"
    process.write(path, process.describe(os.getpid(), []))
    process.note_exit(path, os.getpid() + 1, -9)
    assert "exit_code" not in process.read(path)
    process.note_exit(path, os.getpid(), -9)
    assert process.read(path)["exit_code"] == -9
