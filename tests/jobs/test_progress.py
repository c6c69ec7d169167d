"""Progress files: what another process can read about a download."""

import json
import os
import subprocess
import sys
from pathlib import Path

from studio.errors import StudioError
from studio.jobs.progress import Progress, download_state, slug

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_known_of_a_download_that_never_was(home):
    assert download_state("owner/name") is None


def test_the_newest_bytes_are_read_back(home):
    progress = Progress("owner/name")
    progress("Downloading", 5, 10)
    state = download_state("owner/name")
    assert (state["what"], state["done"], state["total"], state["state"]) == ("Downloading", 5, 10, "working")


def test_a_sentence_is_written_at_once_and_bytes_at_most_five_times_a_second(home, monkeypatch):
    progress = Progress("owner/name")
    written = []
    monkeypatch.setattr(progress, "_write", lambda state: written.append(progress.last["done"]))
    progress("Downloading", 0, 1000)
    progress._written = float("inf")  # as if just written
    for done in range(1000):
        progress("Downloading", done, 1000)
    assert written == [0]


def test_the_end_is_told(home):
    progress = Progress("owner/name")
    progress.done()
    assert download_state("owner/name")["state"] == "done"


def test_a_failure_keeps_what_and_fix(home):
    Progress("owner/name").failed(StudioError("The disk is full.", "Free some space."))
    state = download_state("owner/name")
    assert state["state"] == "failed"
    assert state["error"] == {"what": "The disk is full.", "fix": "Free some space."}


def test_a_dead_process_is_not_working(home):
    progress = Progress("owner/name")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    values = json.loads(progress.path.read_text()) | {"pid": child.pid}
    progress.path.write_text(json.dumps(values))
    state = download_state("owner/name")
    assert state["state"] == "failed"
    assert "interrupted" in state["error"]["what"]


def test_different_ids_have_different_files():
    ids = ["a/b", "a--b", "a b", "/x/model", "/y/model", "b", "a\\b"]
    assert len({slug(i) for i in ids}) == len(ids)


def test_the_fetch_command_prints_the_folder_last(home, tiny_model):
    command = [sys.executable, "-m", "studio.models.fetch", str(tiny_model)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == str(tiny_model)
    assert download_state(str(tiny_model))["state"] == "done"


def test_the_fetch_command_tells_a_failure_on_stderr_and_in_the_file(home):
    command = [sys.executable, "-m", "studio.models.fetch", "./nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert download_state("./nowhere")["error"]["what"] in done.stderr
