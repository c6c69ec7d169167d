"""Requests that no page sends: each gets a clean answer, and nothing outside the run's folder is handed out."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from studio.recipe import Recipe
from studio.runs import Run
from studio.runs.events import EventLog
from studio.runs.feed import Feed
from studio.runs.log_lines import search, tail
from studio.runs.plain_file import open_plain
from studio.ui import app, downloads
from studio.ui.runs.charts import points
from studio.ui.runs.log import log

pytestmark = pytest.mark.usefixtures("home")
ROOT = Path(__file__).resolve().parents[2]
JUNK = ("text", 7, None, True, ["a"], {"a": "b"}, [["a"]], "x" * 100_000, "\x00", "../..")


@pytest.fixture
def run():
    made = Run.create(Recipe())
    made.log_path.write_text("printed by the worker\n")
    events = EventLog(made.events_path)
    events.write("started", max_steps=2)
    for step in (1, 2):
        events.write("step", step=step, loss=1.0 / step)
    return made


@pytest.fixture
def client():
    return TestClient(Starlette(routes=downloads.routes()))


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_security_10_the_chart_answers_junk_in_runs(run, junk):
    assert points(Feed(), {"runs": junk}) == {}
    assert isinstance(points(Feed(), {"runs": [junk, {"run": run.id}]}), dict)


@pytest.mark.parametrize("field", ["have", "range", "width", "small", "axis", "smoothing"])
@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_security_10_the_chart_answers_junk_in_any_field(run, field, junk):
    said = points(Feed(), {"runs": [{"run": run.id, "have": junk}], field: junk})
    assert len(said[run.id]["curves"]["loss"]["y"]) <= 2


@pytest.mark.parametrize("name", ["points", "evals", "generation", "size", "warnings"])
def test_security_10_the_chart_answers_junk_in_what_a_page_has(run, name):
    feed = Feed()
    have = points(feed, {"runs": [{"run": run.id}]})[run.id]["have"]
    for junk in JUNK:
        asked = {**have, "size": -1, name: junk}
        assert run.id in points(feed, {"runs": [{"run": run.id, "have": asked}]})


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_security_10_the_log_answers_junk(run, junk):
    assert log(junk)["html"] == ""
    assert "html" in log({"run": run.id, "search": junk, "have": junk})


def test_security_10_a_log_that_is_a_link_is_not_served(run, client, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("of somebody else")
    assert client.get(f"/runs/{run.id}/log.txt").text == "printed by the worker\n"
    run.log_path.unlink()
    os.symlink(secret, run.log_path)
    answer = client.get(f"/runs/{run.id}/log.txt")
    assert answer.status_code == 404
    assert "somebody" not in answer.text
    assert tail(run.log_path) == ([], False)
    assert search(run.log_path, "somebody") == ([], 0)
    with pytest.raises(FileNotFoundError):
        open_plain(run.log_path)


@pytest.mark.parametrize("name", ["log.txt", "metrics.csv", "export"])
def test_security_10_routes_refuse_what_is_no_run(client, name):
    for id in ("..", "%2e%2e", "nothing", "a" * 5000, "%00", "..%2f..%2fetc"):
        assert client.get(f"/runs/{id}/{name}").status_code == 404


def test_security_10_the_monitoring_of_gradio_is_off():
    assert app.launch_options()["enable_monitoring"] is False


def test_security_10_the_web_server_is_pinned_at_the_installed_versions():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    for package in ("gradio", "starlette", "fastapi", "python-multipart"):
        assert pins[package] == version(package)
