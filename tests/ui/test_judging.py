"""Blind judging on the page: nothing tells the models apart before the vote, and every vote is kept once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from test_compare_answers import SAMPLING, end, failure

from studio.errors import StudioError
from studio.evaluation import votes
from studio.inference import Piece
from studio.recipe import Recipe
from studio.ui.compare import judging
from studio.ui.compare.stream_answers import Question
from studio.workspace import Workspace


@pytest.fixture
def context(home):
    for id in ("secret-one", "secret-two"):
        folder = home / "runs" / id
        folder.mkdir(parents=True)
        Recipe().save(folder / "recipe.yaml")
    return SimpleNamespace(stops={}, rounds={}, on_zero_gpu=None, engine=SimpleNamespace(open=lambda target: target))


@pytest.fixture
def models(monkeypatch):
    """Each model says its own name's length, so that its answer tells which it is to the test alone."""
    state = SimpleNamespace(fails=False, heard=[])

    def stream_many(handles, messages, samplings, stops):
        opened = [handle() for handle in handles]
        state.heard.append([target.name for target in opened])
        for number, target in enumerate(opened):
            yield number, Piece("", 0, 0.0)
            yield number, (failure() if state.fails and number else end({"o": "first", "t": "second"}[target.name[7]]))

    monkeypatch.setattr("studio.inference.stream_many", stream_many)
    monkeypatch.setattr("studio.ui.compare.chat_sessions._REDRAW_SECONDS", -1.0)
    return state


def asked(context, prompt="Hello", names=("secret-one", "secret-two"), **more):
    question = Question(names, "", "[]", prompt, SAMPLING)
    return list(judging.ask(context, "browser", question, "Code, code,  chat ", **more))


def test_nothing_that_the_page_gets_before_the_vote_names_a_model_or_its_speed(context, models):
    sent = json.dumps(asked(context), default=str)
    assert "secret" not in sent and "tokens" not in sent
    assert "Model A" in sent and "Model B" in sent


def test_sides_are_random(context, models):
    for _ in range(40):
        asked(context)
    assert {tuple(names) for names in models.heard} == {("secret-one", "secret-two"), ("secret-two", "secret-one")}


def test_a_vote_uncovers_the_models_and_is_written_with_its_sides_and_tags(context, models):
    asked(context)
    kept = context.rounds["browser"]
    done = judging.vote(context, "browser", kept.key, "A")
    html = done.draw(done.panes, "Rendered")
    assert "secret-one" in html and "secret-two" in html and "tokens" not in html.split("pane")[0]
    (vote,) = votes.read(Workspace.current().votes)
    assert vote.sides == tuple(models.heard[-1]) == kept.sides
    assert (vote.vote, vote.prompt, vote.tags) == ("A", "Hello", ("code", "chat"))
    said = {"secret-one": "first", "secret-two": "second"}
    assert vote.answers == tuple(votes.fingerprint(said[name]) for name in vote.sides)


def test_the_same_round_is_voted_on_once(context, models):
    asked(context)
    key = context.rounds["browser"].key
    judging.vote(context, "browser", key, "A")
    assert judging.vote(context, "browser", key, "B").vote == "A"
    assert len(votes.read(Workspace.current().votes)) == 1


@pytest.mark.parametrize(("key", "chosen"), [("other", "A"), (None, "C")])
def test_a_vote_on_another_round_or_of_another_kind_is_refused(context, models, key, chosen):
    asked(context)
    with pytest.raises(StudioError, match="cannot be judged"):
        judging.vote(context, "browser", key or context.rounds["browser"].key, chosen)


def test_a_round_in_which_one_has_failed_cannot_be_judged(context, models):
    models.fails = True
    notice = asked(context)[-2][2]
    assert "nothing to judge" in notice
    with pytest.raises(StudioError):
        judging.vote(context, "browser", context.rounds["browser"].key, "A")


def test_the_same_model_twice_is_no_pair(context, models):
    ((_, _, notice, *_),) = asked(context, names=("secret-one", "secret-one"))
    assert "no two different models" in notice


def test_regenerate_asks_the_last_prompt_in_a_new_round(context, models):
    asked(context)
    before = context.rounds["browser"].key
    asked(context, prompt="", again=True)
    assert context.rounds["browser"].prompt == "Hello"
    assert context.rounds["browser"].key != before


def test_the_table_has_a_section_for_each_tag(context, models):
    assert "No votes yet" in judging.table()
    asked(context)
    judging.vote(context, "browser", context.rounds["browser"].key, "tie")
    html = judging.table()
    for title in ("All prompts", "code", "chat"):
        assert f"<h4>{title} · 1 vote</h4>" in html


def test_results_09_the_table_counts_damaged_votes_and_shows_the_others(context, models, home):
    asked(context)
    judging.vote(context, "browser", context.rounds["browser"].key, "tie")
    path = Workspace.current().votes
    whole = path.read_bytes()
    path.write_bytes(b'{"vote": []}\n' + whole + b'{"sides": [["<b>"], "y"]}\n')
    html = judging.table()
    assert "2 damaged votes" in html
    assert "All prompts · 1 vote" in html
    path.unlink()
    path.mkdir()
    assert 'role="alert"' in judging.table()
