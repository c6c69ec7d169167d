"""Watching runs in a browser: long ones, several at once, and what can be taken along."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from studio.recipe import Recipe
from studio.runs import Run

LOSS = "document.querySelector('[data-chart=loss]')"
STEPS = 60_000


def finished(name: str, steps: int, *, spike: int = 0, learning_rate: float = 1e-3, extra=None) -> Run:
    """A finished run that nobody trained."""
    run = Run.create(Recipe.parse({"name": name, "train": {"learning_rate": learning_rate}}))
    run.claim()
    events = [{"kind": "started", "max_steps": steps}]
    for step in range(1, steps + 1):
        loss = 99.0 if step == spike else round(1 + math.exp(-step / steps) + 0.1 * math.sin(step), 5)
        events.append({"kind": "step", "step": step, "loss": loss, "tokens": 8 * step, **(extra or {})})
        if step % max(1, steps // 10) == 0:
            events.append({"kind": "eval", "step": step, "loss": loss + 0.1})
    events.append({"kind": "warning", "what": "The <loss> jumped.", "fix": "Look.", "step": steps // 2})
    events.append({"kind": "finished"})
    lines = [json.dumps({"time": 1_000_000.0 + n, **event}) for n, event in enumerate(events)]
    run.events_path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run.log_path.write_text("".join(f"line {n} of the log\n" for n in range(5000)), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def long(workspace):
    return finished("long", STEPS, spike=41_234)


@pytest.fixture(scope="module")
def short(workspace):
    return finished("short", 50, learning_rate=5e-4, extra={"gpu_utilization": 90, "gpu_temperature": 61})


def drawn(page, code: str):
    return page.evaluate(f"() => {LOSS}.{code}")


def wait_for_points(page, count: int) -> None:
    page.wait_for_function(f"count => ({LOSS}?.data?.[0]?.x ?? []).length >= count", arg=count)


def test_a_long_run_shows_its_spike_and_a_zoom_fetches_every_point(visit, long):
    page = visit(f"?run={long.id}")
    wait_for_points(page, 500)
    page.wait_for_function(f"() => {LOSS}.data[0].x.at(-1) === {STEPS}")
    assert len(drawn(page, "data[0].x")) < 8000
    assert 99.0 in drawn(page, "data[0].y")
    inside = f"{LOSS}.data[0].x.filter(x => x >= 41000 && x <= 41500).length"
    assert page.evaluate(f"() => {inside}") < 501
    page.evaluate(f"() => Plotly.relayout({LOSS}, {{'xaxis.range': [41000, 41500]}})")
    page.wait_for_function(f"() => {inside} === 501")
    assert drawn(page, "layout.xaxis.range") == [41000, 41500]
    assert drawn(page, "data[0].x[0]") == 1
    assert drawn(page, "data[0].x.at(-1)") == STEPS


def test_a_run_is_drawn_as_the_button_goes_down_on_it_in_the_list(visit, long, short):
    page = visit(f"?run={short.id}")
    wait_for_points(page, 50)
    page.locator("#run input").click()
    line = page.locator("#run [role=option]", has_text=long.id)
    with page.expect_response(lambda response: "component_server" in response.url and len(response.body()) > 10_000):
        line.hover()  # asks ahead
    page.evaluate("() => document.addEventListener('mousedown', event => event.stopImmediatePropagation(), true)")
    line.click()  # the page itself does not hear of it
    page.wait_for_function(f"() => {LOSS}.data[0].x.at(-1) === {STEPS}")
    page.wait_for_function(f"() => {LOSS}.data[0].x.length === 50")  # and so the chart goes back to what the page shows


@pytest.mark.parametrize("steps", [1, 3])
def test_page_16_a_short_run_has_visible_points_and_whole_steps_on_its_axis(visit, steps):
    page = visit(f"?run={finished('few', steps).id}")
    wait_for_points(page, steps)
    page.wait_for_function(f"() => {LOSS}.querySelectorAll('.xtick text').length > 0")
    told = page.evaluate(f"() => [...{LOSS}.querySelectorAll('.xtick text')].map(tick => tick.textContent)")
    assert set(map(str, range(1, steps + 1))) <= set(told) and all(tick.lstrip("\u2212-").isdigit() for tick in told)
    if steps == 1:
        assert "markers" in drawn(page, "data[0].mode") and drawn(page, "data[0].marker.size") == [6]


def test_the_charts_zoom_together_and_then_rest(visit, short):
    page = visit(f"?run={short.id}")
    wait_for_points(page, 50)
    small = "document.querySelector('[data-chart=gpu_temperature]')"
    page.wait_for_function(f"() => {small}.data?.[0]?.x.length === 50")
    page.evaluate(f"() => {{ window.zooms = 0; {LOSS}.on('plotly_relayout', () => window.zooms++); }}")
    page.evaluate(f"() => Plotly.relayout({small}, {{'xaxis.range': [10, 20]}})")
    page.wait_for_function(f"() => {LOSS}.layout.xaxis.range.join() === '10,20'")
    page.wait_for_timeout(1500)
    assert page.evaluate("() => window.zooms") == 1
    page.evaluate(f"() => Plotly.relayout({LOSS}, {{'xaxis.autorange': true}})")
    page.wait_for_function(f"() => {small}.layout.xaxis.range[1] > 45")


def test_the_axis_can_be_tokens_or_time(visit, short):
    page = visit(f"?run={short.id}")
    wait_for_points(page, 50)
    page.select_option(".axis", "tokens")
    page.wait_for_function(f"() => {LOSS}.data[0]?.x[1] === 16")
    page.select_option(".axis", "time")
    page.wait_for_function(f"() => {LOSS}.layout.xaxis.title.text === 'seconds since the start'")
    page.wait_for_function(f"() => {LOSS}.data[0]?.x[0] === 1")


def test_charts_are_there_only_for_what_was_measured(visit, long, short):
    page = visit(f"?run={short.id}")
    wait_for_points(page, 50)
    page.wait_for_selector("[data-chart=gpu_temperature] .main-svg")
    assert not page.is_visible("[data-chart=grad_norm]")
    other = visit(f"?run={long.id}")
    wait_for_points(other, 500)
    assert not other.is_visible("[data-chart=gpu_temperature]")


def test_a_warning_is_a_mark_on_the_loss_and_its_words_are_text(visit, short):
    page = visit(f"?run={short.id}")
    wait_for_points(page, 50)
    (mark,) = page.evaluate(f"() => {LOSS}.data.filter(t => t.name === 'warning').map(t => [t.x[0], t.hovertext[0]])")
    assert mark[0] == 25
    assert "&lt;loss&gt;" in mark[1]


def test_another_run_is_drawn_over_it_with_a_legend_and_what_differs(visit, long, short):
    page = visit(f"?run={short.id}")
    wait_for_points(page, 50)
    page.click("#others input")
    page.fill("#others input", long.id)
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => {LOSS}.data.filter(t => t.name.endsWith('training loss')).length === 2")
    lines = page.evaluate(
        f"() => {LOSS}.data.filter(t => t.name.endsWith('training loss')).map(t => [t.name, t.line.color, t.line.dash])"
    )
    assert [name[0] for name, _, _ in lines] == ["A", "B"]
    assert len({colour for _, colour, _ in lines}) == 2
    assert len({dash for _, _, dash in lines}) == 2
    assert page.locator(".run-legend > span").count() == 2
    page.wait_for_selector(".apart table")
    assert page.locator(".apart tbody tr").all_inner_texts() == ["train.learning_rate\t0.0005\t0.001"]


def test_the_numbers_are_downloaded_as_csv(visit, short):
    page = visit(f"?run={short.id}")
    wait_for_points(page, 50)
    with page.expect_download() as download:
        page.click(".csv")
    assert download.value.suggested_filename == f"{short.id}-metrics.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    steps, losses = short.view().curves["loss"]
    assert [int(row["step"]) for row in rows] == steps
    assert [float(row["loss"]) for row in rows] == losses
    measured = {int(row["step"]): float(row["eval_loss"]) for row in rows if row["eval_loss"]}
    assert measured == dict(zip(*short.view().curves["eval_loss"], strict=True))


def test_the_log_is_searched_copied_and_downloaded_whole(visit, short):
    page = visit(f"?run={short.id}")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.wait_for_selector("#log-card button:visible")
    page.click("#log-card button")
    page.wait_for_function("() => document.querySelector('#log').innerText.includes('line 4999 of')")
    page.fill(".log-search", "LINE 12 of")
    page.wait_for_function("() => document.querySelector('.log-told').innerText === '1 line'")
    assert "line 12 of the log" in page.inner_text("#log")
    with page.expect_download() as download:
        page.click(".log-download")
    assert Path(download.value.path()).read_text(encoding="utf-8") == short.log_path.read_text(encoding="utf-8")
    page.bring_to_front()  # a page without focus may not write to the clipboard
    page.click(".log-copy")
    page.wait_for_function("() => document.querySelector('.log-copy').innerText === 'Copied'")
    assert page.evaluate("() => navigator.clipboard.readText()") == short.log_path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_pages_on_one_live_run_get_its_new_points(visit, workspace):
    run = finished("live", 20)
    run.events_path.write_text("".join(run.events_path.read_text().splitlines(keepends=True)[:-2]), encoding="utf-8")
    pages = [visit(f"?run={run.id}") for _ in range(3)]  # eight do too; they take minutes to open on a busy machine
    for page in pages:
        page.bring_to_front()
        wait_for_points(page, 20)
    with run.events_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": 1_000_100.0, "kind": "step", "step": 21, "loss": 0.125}) + "\n")
    for page in pages:
        page.bring_to_front()
        page.wait_for_function(f"() => {LOSS}.data[0].y.at(-1) === 0.125")
