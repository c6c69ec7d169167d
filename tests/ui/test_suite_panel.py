"""A suite asked of all panes: what the page says while it goes on, when it is paused, has failed, or is done."""

import json
import re
import threading
from html import unescape
from types import SimpleNamespace

import gradio as gr
import pytest

from studio.errors import StudioError
from studio.evaluation import suite_run
from studio.evaluation.suite_run import Answer, SuiteRun
from studio.evaluation.suites import Prompt, Suite
from studio.ui.compare import suite_panel, suite_table
from studio.ui.compare.suite_panel import Asking

pytestmark = pytest.mark.usefixtures("home")
HOSTILE = "<script>alert(1)</script>"
NAMES = ("base", "one", "two")


def suite() -> Suite:
    def said(text):
        return ({"role": "user", "content": text},)

    return Suite(
        "mine",
        (
            Prompt("a", said("One and one?"), "2", ("sums",), {"number": 2}),
            Prompt("b", said(HOSTILE), "no", ("words",), {"contains": ["no"]}),
            Prompt("c", said("Anything.")),
        ),
    )


def answers(**outputs: list[str]) -> SuiteRun:
    found = {
        name: {id: Answer(id, output, len(output)) for id, output in zip("abc", given, strict=False)}
        for name, given in outputs.items()
    }
    return SuiteRun(suite(), found)


@pytest.fixture
def panel():
    with gr.Blocks():
        return suite_panel.build()


@pytest.fixture
def context(tmp_path):
    return SimpleNamespace(suites={}, downloads=tmp_path, engine=None, on_zero_gpu=None)


@pytest.fixture
def whole():
    return answers(base=["2", HOSTILE, "x"], one=["3", "no", "y"], two=["2", "no", "y"])


def updates(context, panel):
    return suite_panel.show(context, panel, "page")


def test_nothing_was_asked_yet(context, panel):
    shown = updates(context, panel)
    assert "No suite was asked yet" in shown[panel.state]
    assert not any(shown[file]["visible"] for file in panel.files)


def test_it_says_how_far_it_is_pauses_and_goes_on(context, panel, monkeypatch, whole):
    begun, go_on = threading.Event(), threading.Event()

    def asked(suite, names, engine, *, progress, stopped):
        progress("Asking one", 32, 60)
        begun.set()
        assert go_on.wait(30)
        return answers(base=["2", "x", "x"], one=["3"], two=[]) if stopped() else whole

    monkeypatch.setattr(suite_run, "run_suite", asked)
    asking = context.suites["page"] = Asking(NAMES, "general")
    asking.start(context)
    assert begun.wait(30)
    shown = updates(context, panel)
    assert "32 of 60 answers" in shown[panel.state]
    assert shown[panel.ask]["interactive"] is False and shown[panel.pause]["visible"] is True
    asking.pausing.set()
    assert "Pausing" in updates(context, panel)[panel.state]
    go_on.set()
    asking.thread.join()
    shown = updates(context, panel)
    assert "Paused: 0 of 3 prompts" in shown[panel.state]
    assert shown[panel.ask]["value"] == "Continue" and shown[panel.pause]["visible"] is False
    assert shown[panel.answers].count("not asked") == 5

    again = context.suites["page"] = Asking(NAMES, "general")
    again.start(context)
    again.thread.join()
    shown = updates(context, panel)
    assert "Paused" not in shown[panel.state] and shown[panel.ask]["value"] == "Run suite"


@pytest.mark.parametrize(
    ("error", "what"),
    [(StudioError("The disk is full.", "Free some."), "The disk is full."), (KeyError("x"), "KeyError")],
)
def test_what_goes_wrong_is_told(context, panel, monkeypatch, error, what):
    def asked(*_, **__):
        raise error

    monkeypatch.setattr(suite_run, "run_suite", asked)
    asking = context.suites["page"] = Asking(NAMES, "general")
    asking.start(context)
    asking.thread.join()
    shown = updates(context, panel)
    assert what in shown[panel.state]
    assert shown[panel.ask]["interactive"] is True


def test_the_answers_of_three_panes_are_one_table_and_files(context, panel, whole):
    context.suites["page"] = Asking(NAMES, "general", done=whole)
    shown = updates(context, panel)
    table = shown[panel.answers]
    assert HOSTILE not in table and unescape(table).count(HOSTILE) == 2
    assert [re.findall(rf'data-differ="(\d)" .*?<small>{id}<', table)[-1][0] for id in "a"] == ["1"]
    values = [json.loads(unescape(text)) for text in re.findall(r'data-values="(.*?)"', table)]
    assert [each.get("passed") for each in values] == [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], None]
    assert values[0]["exact_match"] == [1.0, 0.0, 1.0]
    summary = shown[panel.state]
    assert "<b>50%</b>" in summary and "<b>100%</b>" in summary and "Checks passed: sums" in summary
    csv, lines, markdown, comparator = (shown[file] for file in panel.files)
    assert comparator["visible"] is False  # it shows two models
    for file in (csv, lines, markdown):
        with open(file["value"], encoding="utf-8") as opened:
            assert "One and one?" in opened.read()


def test_two_panes_also_make_a_file_for_llm_comparator(context, panel):
    context.suites["page"] = Asking(
        ("base", "one"), "general", done=answers(base=["2", "x", "x"], one=["3", "no", "x"])
    )
    shown = updates(context, panel)
    with open(shown[panel.files[-1]]["value"], encoding="utf-8") as opened:
        assert len(json.load(opened)["examples"]) == 3
    assert ">won<" in shown[panel.answers] and ">lost<" in shown[panel.answers]


def test_answers_that_nothing_checks_differ_by_their_words():
    row = {"id": "1", "tags": [], "prompt": "p", "answers": {}}
    for outputs, differ in ((("a", "a"), "0"), (("a", "b"), "1")):
        row["answers"] = {
            side: {"output": output, "error": "", "passed": None, "new_tokens": 1}
            for side, output in zip(("base", "tuned"), outputs, strict=True)
        }
        assert f'data-differ="{differ}"' in suite_table.html([{"name": "s", "answers": [row]}])
