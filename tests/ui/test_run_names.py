"""Runs are called by their names in Compare; their ids are the fallback."""

import pytest

from studio.recipe import Recipe
from studio.runs import Launcher, Run
from studio.runs.label import Label
from studio.ui import app
from studio.ui.compare import chat_html
from studio.ui.context import AppContext
from studio.ui.runs.names import isolated, model_name, unique_names

HOSTILE = "<b>bold</b>"


@pytest.fixture
def run(home):
    def make(name: str) -> str:
        return Run.create(Recipe(), Label(name=name)).id

    return make


def test_page_07_pane_heads_have_names_and_ids_where_there_is_none_or_two_are_alike(run):
    named, bare, again = run("Support v2"), run(""), run("Support v2")
    heads = chat_html.heads(["base", named, f"{named}@12", bare])
    assert [head.label for head in heads] == [
        "Base",
        "Tuned · Support v2",
        "Checkpoint · Support v2@12",
        f"Tuned · {bare}",
    ]
    both = chat_html.heads([named, again])
    assert [head.label for head in both] == [f"Tuned · Support v2 ({named})", f"Tuned · Support v2 ({again})"]
    assert model_name("no-such-run") == "no-such-run"


def test_page_07_a_name_with_markup_is_text_in_the_head_and_the_id_is_its_title(run):
    id = run(HOSTILE)
    drawn = chat_html.draw([[]], chat_html.heads([id]))
    assert HOSTILE not in drawn
    assert f'title="{id}"' in drawn


def test_page_07_a_list_calls_runs_by_name_and_tells_doubles_apart():
    names = {"a": "x", "b": "x", "c": "y", "d": ""}
    assert unique_names(names, list("abcd")) == {"a": "x (a)", "b": "x (b)", "c": "y", "d": "d"}


def test_page_07_a_name_from_right_to_left_does_not_turn_what_follows_round():
    assert isolated("plain") == "plain"
    for name in ("\u05e9\u05dc\u05d5\u05dd", "evil \u202e txt"):
        shown = isolated(name)
        assert (shown[0], shown[-1]) == ("\u2068", "\u2069")
        assert shown.count("\u202c") == name.count("\u202e")


def test_page_10_the_note_about_a_launch_follows_the_run(run, monkeypatch):
    context = AppContext(Launcher())
    id = run("mine")
    assert "message calm" in app.launch_state(context, id), "it waits"
    Run.open(id).cancel()
    Run.open(id).claim()
    monkeypatch.setattr(context.index, "statuses", lambda age=0.0: {id: "failed"})
    assert "message bad" in app.launch_state(context, id)
    assert app.launch_state(context, "gone") == app.launch_state(context, "") == ""
