"""The main job in a browser: see the data, launch, watch, finish, compare."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import TimeoutError

from studio.inference import generate
from studio.runs import Run, list_runs, queue

POINTS = "() => (document.querySelector('[data-chart=loss]')?.data?.[0]?.x ?? []).length"
LONG = {"max_steps": 20_000, "gradient_accumulation_steps": 16, "eval_steps": 0, "save_steps": 0}
"""A run that does not end while a test watches: the tiny model goes through some 200 batches a second."""


def open_tab(page, name):
    page.get_by_role("tab", name=re.compile(name)).click()


def wait_for_status(page, words):
    try:
        page.wait_for_function(
            "words => document.querySelector('#run-state')?.innerText.includes(words)", arg=words, timeout=120_000
        )
    except TimeoutError as error:
        chosen, said = page.input_value("#run input"), page.inner_text("#run-state")
        raise AssertionError(f"The page shows {chosen!r} as {said!r}, not as {words}.") from error


@pytest.fixture
def slow_answers(monkeypatch):
    """Ten tokens a second at most: the tiny model would otherwise be done before anybody can press Stop."""
    put = generate._Streamer.put
    monkeypatch.setattr(generate._Streamer, "put", lambda self, ids: (time.sleep(0.1), put(self, ids))[1])


def settings(page, **values):
    """Fill fields of the training section."""
    open_tab(page, "Method")
    for name, value in values.items():
        page.fill(f"#train-{name} input", str(value))
        page.press(f"#train-{name} input", "Tab")
    page.wait_for_timeout(500)  # the last edit reaches the draft


def launch(page):
    before = {run.id for run in list_runs()}
    page.click("#launch")
    page.wait_for_selector("#run-state:visible")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        new = [run for run in list_runs() if run.id not in before]
        if new:
            return new[0]
        time.sleep(0.1)
    raise AssertionError("no run was made")


def test_open_preview_launch_watch_and_compare_take_at_most_eight_clicks(visit):
    page, clicks = visit(), 0

    open_tab(page, "Data")
    clicks += 1
    page.wait_for_selector(".rows details")
    assert page.locator(".rows details").count() == 20
    assert "question and answer" in page.inner_text("#found")

    run = launch(page)
    clicks += 1
    seen = set()
    deadline = time.monotonic() + 120
    while run.status not in ("finished", "failed") and time.monotonic() < deadline:
        seen.add(page.evaluate(POINTS))
        time.sleep(0.1)
    wait_for_status(page, "Finished")
    assert run.status == "finished"

    page.click("#to-compare")
    clicks += 1
    page.wait_for_selector("#prompt textarea:visible")
    page.fill("#prompt textarea", "What is 3 plus 1?")
    page.click("#send")
    clicks += 1
    page.wait_for_function("() => document.querySelectorAll('.pane .stats').length === 2")
    assert page.locator(".pane.base .turn.assistant").count() == 1
    assert page.locator(".pane.tuned .turn.assistant").count() == 1
    assert clicks <= 8


def test_the_finished_chart_holds_every_point_of_the_event_file(visit):
    run = next(r for r in list_runs() if r.status == "finished")
    page = visit(f"?run={run.id}")
    steps, losses = run.view().curves["loss"]
    page.wait_for_function(f"() => ({POINTS})() === {len(steps)}")
    assert page.evaluate("() => document.querySelector('[data-chart=loss]').data[0].x") == steps
    assert page.evaluate("() => document.querySelector('[data-chart=loss]').data[0].y") == losses


@pytest.mark.slow
def test_zoom_stays_when_new_points_come(visit):
    page = visit()
    settings(page, **LONG)
    launch(page)
    page.wait_for_function(f"() => ({POINTS})() >= 2", timeout=90_000)
    page.evaluate("() => Plotly.relayout(document.querySelector('[data-chart=loss]'), {'xaxis.range': [0, 2]})")
    count = page.evaluate(POINTS)
    page.wait_for_function(f"() => ({POINTS})() > {count}", timeout=90_000)
    assert page.evaluate("() => document.querySelector('[data-chart=loss]').layout.xaxis.range") == [0, 2]
    page.click("#stop")
    wait_for_status(page, "Stopped at step")


@pytest.mark.slow
def test_a_reload_and_a_second_browser_show_the_same_run_and_stop_keeps_a_model(visit):
    page = visit()
    settings(page, **LONG)
    run = launch(page)
    page.wait_for_function(f"() => ({POINTS})() >= 3", timeout=90_000)
    page.reload()
    open_tab(page, "Runs")
    wait_for_status(page, "Training")
    other = visit(f"?run={run.id}")
    wait_for_status(other, "Training")
    other.click("#stop")
    page.bring_to_front()  # a page that nobody sees does not ask
    wait_for_status(page, "Stopped at step")
    assert run.status == "stopped"
    assert run.has_model
    assert run.view().checkpoints


def test_a_killed_worker_is_interrupted_within_three_seconds_and_can_be_resumed(visit):
    page = visit()
    settings(page, max_steps=5000, save_steps=5)
    run = launch(page)
    page.wait_for_function(f"() => ({POINTS})() >= 8", timeout=90_000)
    while not run.view().checkpoints:
        time.sleep(0.1)
    run.process.kill()
    killed = time.monotonic()
    wait_for_status(page, "Interrupted")
    assert time.monotonic() - killed < 3.0
    assert "resume" in page.inner_text("#run-state").lower()
    page.click("#resume")
    wait_for_status(page, "Training")
    assert run.events()[-1]["kind"] != "failed"
    page.click("#stop")
    wait_for_status(page, "Stopped at step")
    assert next(e for e in reversed(run.events()) if e["kind"] == "started")["resumed_from"]


def test_a_double_click_on_launch_starts_one_run(visit):
    page = visit()
    settings(page, max_steps=3)
    before = len(list_runs())
    page.dblclick("#launch")
    wait_for_status(page, "Finished")
    assert len(list_runs()) == before + 1


def longest_answer(page, tokens: int) -> None:
    """Set the limit, once the folded settings are really there: the slider follows the number when it was taken."""
    page.get_by_text("Generation settings").click()
    number = page.get_by_label("number input for Max new tokens")
    slider = page.get_by_label("range slider for Max new tokens")
    for _ in range(20):
        number.fill(str(tokens))
        number.press("Tab")
        page.wait_for_timeout(250)
        if slider.input_value() == number.input_value() == str(tokens):
            return
    raise AssertionError("the limit was never taken")


def answered(page, count: int) -> None:
    """Wait until both panes have so many whole answers and the next prompt may be sent."""
    page.wait_for_function(
        """count => ['base', 'tuned'].every(
             pane => document.querySelectorAll(`.pane.${pane} .turn.assistant`).length === count
               && document.querySelectorAll(`.pane.${pane} .stats`).length === count)
           && !document.querySelector('.pane .caret') && !document.querySelector('#send').disabled""",
        arg=count,
    )
    page.wait_for_selector("#stop-answers", state="hidden")


def test_compare_talks_over_several_turns_regenerates_and_clears(visit):
    page = visit()
    open_tab(page, "Compare")
    page.wait_for_selector("#prompt textarea:visible")
    longest_answer(page, 16)  # the tiny model's context is short
    for count, text in ((1, "What is 1 plus 1?"), (2, "And 2 plus 1?")):
        page.fill("#prompt textarea", text)
        page.click("#send")
        answered(page, count)
    first = page.inner_text(".pane.tuned .turns")
    page.evaluate(
        """() => {
             const stats = () => [...document.querySelectorAll('.pane .stats')].map(line => line.innerText).join('|');
             const before = stats();
             new MutationObserver(() => window.answering ||= stats() !== before)
               .observe(document.querySelector('#panes'), {childList: true, subtree: true, characterData: true});
           }"""
    )  # Gradio changes other things in there as well, before the first word comes
    page.click("#again")
    page.wait_for_function("() => window.answering")
    answered(page, 2)
    strip = lambda text: re.sub(r"\d+ tokens.*", "", text)  # noqa: E731  speeds differ
    assert strip(page.inner_text(".pane.tuned .turns")) == strip(first)
    page.click("#clear")
    page.wait_for_function("() => document.querySelectorAll('.pane .turn').length === 0")


def test_stop_ends_both_answers_and_keeps_what_was_written(visit, slow_answers):
    page = visit()
    open_tab(page, "Compare")
    longest_answer(page, 2048)
    page.fill("#prompt textarea", "Tell me a very long story.")
    page.click("#send")
    page.wait_for_function("() => document.querySelector('.pane.tuned .stats')?.innerText.includes('tokens')")
    page.click("#stop-answers")
    page.wait_for_selector("#stop-answers", state="hidden", timeout=10_000)
    assert page.locator(".pane .turn.assistant").count() == 2


def test_clear_while_answers_are_written_leaves_the_panes_empty_and_the_next_prompt_is_answered(visit, slow_answers):
    page = visit()
    open_tab(page, "Compare")
    longest_answer(page, 2048)
    page.fill("#prompt textarea", "Tell me a very long story.")
    page.click("#send")
    page.wait_for_function("() => document.querySelector('.pane.tuned .stats')?.innerText.includes('tokens')")
    page.click("#clear")
    page.wait_for_function("() => document.querySelectorAll('.pane .turn').length === 0")
    page.wait_for_selector("#stop-answers", state="hidden")
    page.wait_for_timeout(500)  # an answer that went on would be back by now
    assert page.locator(".pane .turn").count() == 0
    page.fill("#prompt textarea", "What is 1 plus 1?")
    page.click("#send")
    page.wait_for_function("() => document.querySelector('.pane.tuned .stats')?.innerText.includes('tokens')")
    page.click("#stop-answers")
    page.wait_for_selector("#stop-answers", state="hidden", timeout=10_000)
    assert page.locator(".pane .turn.user").count() == 2


def test_an_opened_run_is_read_from_the_address(visit):
    oldest = list_runs()[-1]
    page = visit(f"?run={oldest.id}")
    page.wait_for_selector("#run-state:visible")
    assert oldest.id in page.input_value("#run input")
    assert Run.open(oldest.id).status in page.input_value("#run input")


@pytest.mark.slow
def test_a_run_is_paused_named_resumed_and_cancelled_and_a_queued_one_is_moved(visit):
    page = visit()
    settings(page, **LONG)
    first = launch(page)
    page.wait_for_function(f"() => ({POINTS})() >= 2", timeout=90_000)
    page.click("#pause")
    wait_for_status(page, "Paused at step")
    assert first.status == "paused" and not first.has_model

    page.click("#run-words > button, #run-words .label-wrap")
    page.fill("#run-name textarea, #run-name input", "My <b>first</b>")
    page.click("#keep-words")
    page.wait_for_function("() => document.querySelector('#run input').value.startsWith('My <b>first</b>')")

    page.fill("#run-note textarea", "Not saved yet")
    page.click("#resume")
    wait_for_status(page, "Training")
    assert first.status == "running"
    assert page.input_value("#run-note textarea") == "Not saved yet"
    page.click("#queue-card > button, #queue-card .label-wrap")
    page.click("#again-run")  # two more, which wait
    page.wait_for_function("() => document.querySelectorAll('#queue [data-act=up]').length === 1")
    page.click("#again-run")
    page.wait_for_function("() => document.querySelectorAll('#queue [data-act=up]').length === 2")
    second, third = queue.waiting()
    page.click(f"#queue [data-act=up][data-run='{third.id}']")
    page.wait_for_function(f"() => document.querySelector('#queue [data-act=up]').dataset.run === '{third.id}'")
    assert [run.id for run in queue.waiting()] == [third.id, second.id]
    for run in (second, third):
        page.click(f"#queue [data-act=cancel][data-run='{run.id}']")
    page.wait_for_function("() => !document.querySelector('#queue [data-act=up]')")

    other = visit(f"?run={first.id}")
    wait_for_status(other, "Training")
    other.click("#cancel")
    wait_for_status(other, "Cancelled")
    assert first.process is None and first.status == "stopped"
    other.click("#run-words > button, #run-words .label-wrap")
    other.click("#delete-run")
    other.wait_for_function("id => !document.querySelector('#run input').value.startsWith('My <b>')", arg=first.id)
    assert first.id not in [run.id for run in list_runs()]
