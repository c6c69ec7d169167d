"""The report of a run: what it finds, that it is one file that asks nobody for anything, and how its making is told."""

import json
import os
import re

import pytest
from lora_runs import add_run

from studio.errors import StudioError
from studio.evaluation import report as reports
from studio.evaluation.report import Told, partial_report, report, report_state, stop_report
from studio.evaluation.report_page import body
from studio.inference import Engine
from studio.recipe import DataSpec
from studio.training.model_card import write_card

HOSTILE = "<script>alert(1)</script><img src=http://a.example/x.png> ${x} {{y}} \x1b[31m"


@pytest.fixture(scope="module")
def reported(models, tmp_path_factory):
    """A run over hostile rows with its report, in a workspace of its own."""
    folder = tmp_path_factory.mktemp("reported")
    patch = pytest.MonkeyPatch()
    patch.setenv("STUDIO_HOME", str(folder))
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{HOSTILE} {n}?"},
                {"role": "assistant", "content": f"Answer {n}. {HOSTILE}"},
            ]
        }
        for n in range(12)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataSpec(source=str(path), holdout=0.4, max_length=256)
    run = add_run(folder, "reported", models["base"], models["one"], data=data)
    suite = folder / "mine.jsonl"
    prompts = [
        {"prompt": f"Write a haiku about {n} {HOSTILE}", "check": {"words": [0, 400]}, "tags": ["a<b"]}
        for n in range(3)
    ]
    suite.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    engine = Engine(device="cpu")
    yield run, report(run, engine, suites=[str(suite)])
    engine.release()
    patch.undo()


def test_every_part_is_there(reported):
    run, made = reported
    assert list(made) == ["run", "made", "scores", "suites", "plain_text", "memorised", "examples"]
    (suite,) = made["suites"]
    assert suite["figures"]["means"]["tuned"]["passed"] == 1
    assert list(suite["tags"]) == ["a<b"]
    assert made["plain_text"]["means"]["base"]["loss"] != made["plain_text"]["means"]["tuned"]["loss"]
    assert made["scores"]["seen"]["rows"] > 0
    assert (
        json.loads((run.folder / "report.json").read_text(encoding="utf-8"))["scores"]["rows"] == made["scores"]["rows"]
    )


def test_the_page_is_one_file_that_shows_hostile_text_as_text_and_asks_nobody(reported):
    run, _ = reported
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "<img" not in page
    assert not [tag for tag in re.findall("<[^>]*>", page) if re.search(r"\b(?:src|href|style)\s*=", tag)]
    assert "url(" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for title in (
        "Held-out rows",
        "Suite: mine",
        "Forgetting",
        "word for word",
        "Before and after",
        "haiku",
    ):
        assert title in page


def test_the_model_card_has_the_figures(reported, tmp_path):
    run, made = reported
    write_card(tmp_path, run)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"| loss | {made['scores']['base']['loss']:.4f} | {made['scores']['tuned']['loss']:.4f} |" in card


def test_the_state_is_the_report_until_the_model_changes(reported):
    run, made = reported
    found, state = report_state(run)
    assert found["scores"]["rows"] == made["scores"]["rows"]
    assert state is None
    weights = next(run.model_dir.glob("*.safetensors"))
    before = weights.stat()
    later = (run.folder / "report.json").stat().st_mtime + 10
    os.utime(weights, (later, later))
    assert report_state(run)[0] is None
    os.utime(weights, (before.st_atime, before.st_mtime))


def test_the_making_is_told_and_a_killed_one_says_so(reported):
    run, _ = reported
    told = Told(run)
    told("Asking", 0, 10)
    assert report_state(run)[1]["what"] == "Asking"
    Told(run, pid=2**22 + 1)("Asking", 0, 10)
    assert "before it was done" in report_state(run)[1]["error"][0]
    told.ended(StudioError("No memory.", "Close something."))
    assert report_state(run)[1] == {"error": ["No memory.", "Close something."]}
    stop_report(run)
    assert report_state(run)[1] is None


def test_page_03_no_suite_selected_asks_no_suite(reported, monkeypatch):
    run, made = reported
    kept = {name: (run.folder / name).read_bytes() for name in ("report.json", "report.html")}
    asked = []
    monkeypatch.setattr(reports, "evaluate", lambda *_: made["scores"])
    monkeypatch.setattr(reports, "run_suite", lambda suite, *_, **__: asked.append(suite))
    monkeypatch.setattr(reports, "plain_text_loss", lambda *_: made["plain_text"])
    monkeypatch.setattr(reports, "_learnt", lambda *_: [])
    engine = Engine(device="cpu")
    assert report(run, engine, suites=[])["suites"] == asked == []
    engine.release()
    for name, content in kept.items():
        (run.folder / name).write_bytes(content)


def test_page_03_the_page_asks_for_no_suites_where_none_is_selected(reported, monkeypatch, tmp_path):
    from studio.ui import job_manager

    run, _ = reported
    commands = []
    monkeypatch.setattr(job_manager.subprocess, "Popen", lambda command, **_: commands.append(command) or FakeProcess())
    for suites in ([], ["general"]):
        job_manager.JobManager(tmp_path).evaluate(run, suites)
        stop_report(run)
    assert commands[0][-1:] == ["--no-suites"]
    assert commands[1][-2:] == ["--suite", "general"]


class FakeProcess:
    """A process that has ended."""

    pid = 2**22 + 1

    def poll(self):
        return 0


def test_page_03_an_evaluation_cancelled_during_the_suites_shows_the_held_out_scores(reported):
    run, made = reported
    partial = partial_report(run)
    assert partial["scores"]["tuned"]["loss"] == made["scores"]["tuned"]["loss"]
    assert (partial["suites"], partial["plain_text"], partial["memorised"]) == ([], None, None)
    shown = body(run, partial)
    assert "Held-out rows" in shown
    assert "word for word" not in shown
    (run.folder / "evaluation.json").rename(run.folder / "elsewhere")
    assert partial_report(run) is None
    (run.folder / "elsewhere").rename(run.folder / "evaluation.json")
