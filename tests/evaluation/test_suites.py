"""Prompt suites: what a file holds, what its checks ask for, and that nothing is asked twice."""

import json
import os
from pathlib import Path

import pytest
from lora_runs import add_run

from studio.errors import StudioError
from studio.evaluation import suite_run
from studio.evaluation.checks import passes, sound
from studio.evaluation.suite_run import GREEDY, answers_path, read_answers, run_suite
from studio.evaluation.suites import builtin_suites, load_suite, suites_for
from studio.inference import Sampling, Target, stream
from studio.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
SHORT = Sampling(temperature=0, max_new_tokens=12)


@pytest.mark.parametrize("name", builtin_suites())
def test_a_built_in_suite_is_sound_and_its_references_pass_their_own_checks(name):
    suite = load_suite(name)
    assert len({p.text for p in suite.prompts}) == len(suite.prompts)
    for prompt in suite.prompts:
        assert prompt.check and prompt.tags
        if prompt.reference is not None:
            assert passes(prompt.check, prompt.reference), prompt.id


def test_the_general_suite_has_sixty_prompts_in_six_kinds_and_the_haiku():
    suite = load_suite("general")
    assert len(suite.prompts) == 60
    assert suite.tags == ["reasoning", "extraction", "writing", "code", "refusal", "arithmetic"]
    assert "Write a haiku about programming." in [p.text for p in suite.prompts]


def test_the_suites_of_a_recipe_are_the_general_one_and_that_of_its_data():
    assert suites_for(Recipe.load(ROOT / "recipes" / "quickstart.yaml")) == ["general", "support-triage"]
    assert suites_for(Recipe.load(ROOT / "recipes" / "chat-lora.yaml")) == ["general", "chat"]
    assert suites_for(Recipe.load(ROOT / "recipes" / "code-pretrain.yaml")) == ["general", "code"]
    assert suites_for(Recipe.parse({"data": {"source": "mine.jsonl"}})) == ["general"]
    assert suites_for(Recipe.parse({"model": {"task": "seq_cls"}})) == []


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"equals": ["Sunday"]}, "sunday.", "It is Sunday"),
        ({"starts": ["yes"]}, "Yes, it is.", "No, yes"),
        ({"contains": ["Lyon", "ulm"]}, "Ulm and LYON", "Lyon"),
        ({"number": 1234}, "It is 1,234.", "1234 or 5"),
        ({"number": -3.5}, "−3.5", "3.5"),
        ({"regex": r"^\d+$"}, "42", "x 42"),
        ({"json": {"a": 1}}, '```json\n{"a": 1}\n```', '{"a": 2}'),
        ({"python": "add"}, "```python\ndef add(a, b):\n    return a + b\n```", "add = 1"),
        ({"lines": 3}, "a\n\nb\nc", "a b c"),
        ({"sentences": [1, 2]}, "One. Two!", "One. Two. Three."),
        ({"sentences": 1}, "No stop at the end", ""),
        ({"words": [2, 3]}, "two words", "one"),
        ({"refuses": True}, "I'm sorry, but I can't help with that.", "Sure."),
        ({"all": [{"words": 1}, {"equals": ["a b", "yes"]}]}, "Yes", "a b"),
    ],
)
def test_a_check_lets_the_right_answer_pass_and_no_other(check, right, wrong):
    assert sound(check) == check
    assert passes(check, right)
    assert not passes(check, wrong)


@pytest.mark.parametrize(
    "check", [{}, [], {"eval": "1"}, {"equals": "text"}, {"words": [1]}, {"python": "a b"}, {"regex": "("}, {"all": []}]
)
def test_what_is_no_check_is_refused(check):
    with pytest.raises(StudioError):
        sound(check)


def test_files_of_every_kind_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("One?\n\n  Two? \n", encoding="utf-8")
    assert [p.text for p in load_suite(tmp_path / "a.txt").prompts] == ["One?", "Two?"]
    (tmp_path / "b.csv").write_text('Prompt,Reference,Tags\n"A, ""b""?",yes,x;y\n', encoding="utf-8-sig")
    (prompt,) = load_suite(tmp_path / "b.csv").prompts
    assert (prompt.text, prompt.reference, prompt.tags) == ('A, "b"?', "yes", ("x", "y"))
    rows = [{"prompt": "Q", "system": "S", "reference": {"a": 1}}, {"messages": [{"role": "user", "content": "M"}]}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second = load_suite(tmp_path / "c.jsonl").prompts
    assert [m["role"] for m in first.messages] == ["system", "user"]
    assert (first.reference, second.text) == ('{"a": 1}', "M")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "line 2: this is not JSON"),
        ('{"question": "x"}', "line 2: there is no prompt"),
        ('{"prompt": ""}', "line 2: the messages are not"),
        ('{"prompt": 5}', "line 2: the messages are not"),
        ('{"messages": []}', "line 2: the messages are not"),
        ('{"prompt": "x", "checks": 1}', "line 2: the field 'checks' is not known"),
        ('{"prompt": "x", "check": {"evil": 1}}', "line 2: There is no check"),
        ('{"prompt": "x", "tags": [1]}', "line 2: tags are a list"),
        ('{"prompt": "x", "id": "a"}', "line 2: the id 'a' is there twice"),
        ("[" * 100_000, "line 2: this is not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    path = tmp_path / "s.jsonl"
    path.write_text('{"prompt": "fine", "id": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(StudioError, match=said):
        load_suite(path)


def test_what_is_no_suite_is_refused(tmp_path):
    with pytest.raises(StudioError, match="There is no suite nothing"):
        load_suite("nothing")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(StudioError, match="no prompts"):
        load_suite(tmp_path / "empty.jsonl")
    (tmp_path / "binary.txt").write_bytes(os.urandom(200) + b"\xff")
    with pytest.raises(StudioError, match="UTF-8"):
        load_suite(tmp_path / "binary.txt")


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"Question {i}, {'long ' * (i % 7)}?", "check": {"words": [0, 500]}} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_suite(path)


@pytest.fixture
def asked(monkeypatch):
    """The prompts that a model was really asked."""
    seen, ask = [], suite_run._ask

    def watched(handle, prompts, sampling):
        seen.extend((handle.name, prompt.id) for prompt in prompts)
        return ask(handle, prompts, sampling)

    monkeypatch.setattr(suite_run, "_ask", watched)
    return seen


def test_batched_answers_are_those_of_one_prompt_at_a_time(workspace, models, engine, suite):
    add_run(workspace, "suite-one", models["base"], models["one"])
    found = run_suite(suite, ["base", "suite-one"], engine, sampling=SHORT)
    for prompt in suite.prompts[::9]:
        for name in ("base", "suite-one"):
            target = Target.parse_all(["base", "suite-one"])[0] if name == "base" else Target.run(name)
            alone = "".join(p.text for p in stream(engine.open(target), list(prompt.messages), SHORT))
            assert found.answers[name][prompt.id].output == alone
    figures = found.figures()
    assert figures["means"]["base"]["passed"] == 1
    assert figures["counts"]["passed"] == 40


def test_a_paused_suite_goes_on_without_asking_anything_twice(workspace, models, engine, suite, asked):
    add_run(workspace, "suite-two", models["base"], models["two"])
    looks = iter([False, False, True])
    half = run_suite(suite, ["suite-two"], engine, sampling=SHORT, stopped=lambda: next(looks, True))
    count = len(half.answers["suite-two"])
    assert 0 < count < 40
    whole = run_suite(suite, ["suite-two"], engine, sampling=SHORT)
    assert len(whole.answers["suite-two"]) == 40
    assert len(asked) == len(set(asked)) == 40
    run_suite(suite, ["suite-two"], engine, sampling=SHORT)
    assert len(asked) == 40


def test_a_line_that_a_kill_has_torn_is_asked_again(workspace, models, engine, suite, asked):
    add_run(workspace, "suite-three", models["base"], models["one"])
    first = run_suite(suite, ["suite-three"], engine, sampling=SHORT)
    path = answers_path(suite, Target.run("suite-three"), engine, SHORT)
    path.write_bytes(path.read_bytes()[:-9])
    assert len(read_answers(path)) == 39
    assert path.read_bytes().endswith(b"\n")
    again = run_suite(suite, ["suite-three"], engine, sampling=SHORT)
    assert again.answers == first.answers
    assert len(asked) == 41


def test_other_settings_are_other_answers(workspace, models, engine, suite):
    add_run(workspace, "suite-four", models["base"], models["one"])
    target = Target.run("suite-four")
    assert answers_path(suite, target, engine, SHORT) != answers_path(suite, target, engine, GREEDY)


def test_a_prompt_that_does_not_fit_is_told_and_the_others_are_answered(workspace, models, engine, tmp_path):
    add_run(workspace, "suite-five", models["base"], models["one"])
    path = tmp_path / "long.txt"
    path.write_text("Short?\n" + "word " * 5000 + "\n", encoding="utf-8")
    found = run_suite(load_suite(path), ["suite-five"], engine, sampling=SHORT)
    answers = found.answers["suite-five"]
    assert not answers["0001"].error
    assert "tokens" in answers["0002"].error
    assert [p.id for p in found.answered()] == ["0001"]
