"""The Compare tab in a browser: several panes, hostile text, views, editing, and blind judging by key."""

from __future__ import annotations

import json
import re
import time

import pytest

from studio.evaluation import suite_run, votes
from studio.runs import Run
from studio.workspace import Workspace

HOSTILE = "<img src=http://evil.example/x.png onerror=alert(1)> ${1+1} {{value}} \u202e![x](http://evil.example/y.png)"


@pytest.fixture(scope="module")
def run(tiny_recipe):
    """A short run with two checkpoints, trained in this process."""
    from studio.training import train

    train_settings = tiny_recipe.train.model_copy(update={"max_steps": 4, "save_steps": 2, "sample_count": 0})
    run = Run.create(tiny_recipe.model_copy(update={"train": train_settings}))
    assert train(run.folder) == "finished"
    return run


@pytest.fixture
def compare(run, visit):
    """The tab with answers of at most sixteen tokens."""
    page = visit()
    page.get_by_role("tab", name=re.compile("Compare")).click()
    page.wait_for_selector("#prompt textarea:visible")
    page.wait_for_function("id => document.querySelector('#tuned input').value.startsWith(id)", arg=run.id)
    page.get_by_text("Generation settings").click()
    number = page.get_by_label("number input for Max new tokens")
    for _ in range(20):
        number.fill("16")
        number.press("Tab")
        page.wait_for_timeout(250)
        if page.get_by_label("range slider for Max new tokens").input_value() == number.input_value() == "16":
            return page
    raise AssertionError("the limit was never taken")


def ask(page, text: str) -> None:
    page.fill("#prompt textarea", text)
    page.click("#send")


def answered(page, panes: int) -> None:
    page.wait_for_function(
        """panes => document.querySelectorAll('.pane .turn.assistant').length === panes
           && document.querySelector('.panes').dataset.going === '0' && !document.querySelector('#send').disabled""",
        arg=panes,
    )


def test_three_panes_answer_hostile_text_stays_text_and_a_turn_is_changed(compare, run):
    page = compare
    page.get_by_label("3", exact=True).click()
    page.wait_for_selector("#model-3 input:visible")
    page.fill("#model-3 input", f"{run.id}@2")
    page.press("#model-3 input", "Enter")
    page.wait_for_function("() => document.querySelectorAll('.pane').length === 3")
    page.wait_for_function(f"() => document.querySelector('.pane.third .who').innerText.includes('{run.id}@2')")
    ask(page, HOSTILE)
    answered(page, 3)
    shown = page.inner_text(".pane.base .turn.user .plain")
    assert shown == HOSTILE.replace("\u202e", "\\u202e")
    assert page.locator(".pane img").count() == 0

    stop = page.locator("#prompt").bounding_box()
    for view in ("Differences", "Probabilities", "Plain text"):
        page.get_by_label(view, exact=True).click()
        page.wait_for_function("view => document.querySelector('#pane-view input:checked').value === view", arg=view)
    page.get_by_label("Probabilities", exact=True).click()
    page.wait_for_selector(".pane .odds span[title]", state="attached")
    assert page.locator("#prompt").bounding_box() == stop

    page.hover(".pane.base .turn.user")
    page.click(".pane.base .turn.user [data-act=edit]")
    assert page.input_value(".pane.base .turn.user textarea") == HOSTILE
    page.fill(".pane.base .turn.user textarea", "What is 2 plus 1?")
    page.get_by_text("Ask this instead").click()
    page.wait_for_function(
        """text => [...document.querySelectorAll('.pane .turn.user .plain')].map(turn => turn.innerText).join('|')
           === [text, text, text].join('|')""",
        arg="What is 2 plus 1?",
    )
    answered(page, 3)


def test_a_blind_round_hides_the_names_until_a_key_votes(compare, run):
    page = compare
    page.get_by_label("Blind").click()
    page.wait_for_selector("#vote-tags:visible")
    page.fill("#vote-tags textarea, #vote-tags input", "sums")
    ask(page, "What is 3 plus 1?")
    page.wait_for_selector(".votes button:not(:disabled)")
    assert run.id not in page.inner_html("#panes") and "tokens" not in page.inner_text("#panes")
    page.focus("#prompt textarea")
    page.keyboard.press("a")  # a letter of the next prompt
    assert page.input_value("#prompt textarea") == "a"
    assert votes.read(Workspace.current().votes) == []
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("b")
    page.wait_for_function("id => document.querySelector('#panes').innerText.includes(id)", arg=run.id)
    (vote,) = votes.read(Workspace.current().votes)
    assert (vote.vote, vote.tags, vote.prompt) == ("B", ("sums",), "What is 3 plus 1?")
    page.click("#votes > button, #votes .label-wrap")
    page.wait_for_selector(".standings table >> nth=1")
    assert "sums · 1 vote" in page.inner_text("#standings")


def test_a_suite_is_asked_of_both_panes_paused_and_gone_on_with(compare, run, tmp_path, monkeypatch):
    from studio.inference import batches

    real = batches.answer_batches

    def slow(*arguments, **options):
        for batch in real(*arguments, **options):
            time.sleep(1.5)
            yield batch

    monkeypatch.setattr(batches, "answer_batches", slow)
    monkeypatch.setattr(suite_run, "_AT_ONCE", 2)
    page = compare
    prompts = tmp_path / "mine.txt"
    prompts.write_text("\n".join(["Say one.", "Say two.", HOSTILE, "Say four.", "Say five."]), encoding="utf-8")
    page.get_by_text("Run a prompt suite").click()
    page.wait_for_selector("#suite-state .empty:visible")
    with page.expect_file_chooser() as chooser:
        page.click("#asked-file")
    chooser.value.set_files(prompts)
    page.wait_for_function("() => document.querySelector('#asked-suite input').value.includes('mine')")
    page.click("#ask-panes")
    page.wait_for_selector("#pause-suite:visible")
    page.click("#pause-suite")
    page.wait_for_function("() => document.querySelector('#suite-state').innerText.includes('Paused')", timeout=60000)
    assert page.inner_text("#ask-panes") == "Continue"
    page.click("#ask-panes")
    page.wait_for_function(
        """() => document.querySelector('#ask-panes').innerText === 'Run suite'
           && document.querySelectorAll('#panes-answers tbody tr').length === 5
           && !document.querySelector('#panes-answers').innerText.includes('not asked')""",
        timeout=90000,
    )
    assert page.locator("#panes-answers img").count() == 0
    with page.expect_download() as download:
        page.click("#suite-jsonl")
    lines = [json.loads(line) for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert [set(line["answers"]) for line in lines] == [{*lines[0]["answers"]}] * 5 and len(lines[0]["answers"]) == 2
    files = sorted(Workspace.current().folder("suites").glob("*.jsonl"))
    asked = [json.loads(line)["prompt_id"] for file in files for line in file.read_text().splitlines()]
    assert len(asked) == 10  # no prompt was asked twice
