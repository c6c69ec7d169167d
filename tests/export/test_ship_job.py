"""An export of the page: a process of its own, told in a file, whatever becomes of it."""

import json
import os
import time

import pytest
from fake_hub import wait_until

from studio.errors import StudioError
from studio.export import Options, job
from studio.export.__main__ import main


def ended(run):
    wait_until(lambda: job.read(run)["state"] != "working", 120)
    return job.read(run)


def test_it_runs_by_itself_and_says_what_came_out(run_of):
    run = run_of("full")
    job.start(run, "snippet", None, Options())
    assert job.read(run)["state"] == "working"
    state = ended(run)
    assert state["state"] == "done", (run.folder / job.LOG).read_text()
    assert "from_pretrained" in state["code"]["transformers"]


def test_what_fails_is_told(run_of, monkeypatch):
    run = run_of()
    monkeypatch.setenv("LLAMA_CPP", "/nowhere")
    asked = {"kind": "gguf", "to": None, "options": {}}
    assert main(str(run.folder), json.dumps(asked)) == 1
    assert "LLAMA_CPP names /nowhere" in job.read(run)["what"]


def test_a_bug_is_told_too_and_stands_in_the_log(run_of, monkeypatch, capfd):
    monkeypatch.setattr("studio.export.__main__.export", lambda *_: 1 / 0)
    run = run_of()
    main(str(run.folder), json.dumps({"kind": "merged", "to": None, "options": {}}))
    assert "ZeroDivisionError" in job.read(run)["what"]
    assert "Traceback" in capfd.readouterr().err


def test_only_one_at_a_time(run_of):
    run = run_of()
    job.write(run, {"state": "working", "kind": "merged", "what": "Merging", "done": 0, "total": 0})
    with pytest.raises(StudioError, match="being exported already"):
        job.start(run, "merged", None, Options())


def test_what_cannot_be_is_refused_before_a_process_starts(run_of):
    run = run_of("full")
    with pytest.raises(StudioError, match="trains no adapter"):
        job.start(run, "adapter", None, Options())
    assert job.read(run) is None


def test_a_process_that_is_gone_has_failed(run_of):
    run = run_of()
    job.write(run, {"state": "working", "kind": "merged", "what": "Merging", "done": 0, "total": 0})
    path = run.folder / job.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"time": time.time() - 100}))
    (run.folder / "export-process.json").write_text(json.dumps({"pid": os.getpid(), "start": 0, "host": "elsewhere"}))
    assert job.read(run)["state"] == "failed"
