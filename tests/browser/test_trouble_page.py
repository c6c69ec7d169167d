"""A run that went wrong, and samples as a run learns, in the browser."""

import threading

from studio.runs import EventLog, Run, list_runs
from studio.ui.runs import tab as runs_tab


def ended(recipe, *events: tuple[str, dict]) -> Run:
    run = Run.create(recipe)
    run.claim()  # no launcher starts it
    log = EventLog(run.events_path)
    for kind, fields in events:
        log.write(kind, **fields)
    log.close()
    return run


def test_one_click_retries_a_run_that_ran_out_of_memory_with_less(visit, tiny_recipe):
    told = {"reason": "out_of_memory", "device": "cpu", "dtype": "float32", "longest_tokens": 64}
    told |= {"estimated_memory_bytes": 9_000_000, "available_bytes": 1_000_000}
    failed = ended(tiny_recipe, ("failed", {"what": "No memory.", "fix": "", "traceback": "", **told}))
    page = visit(query=f"?run={failed.id}")
    page.wait_for_selector("#relief-steps input:checked")
    page.click("#retry")
    page.wait_for_selector("#run-state .message.good", timeout=60_000)
    newest = list_runs()[0]
    assert newest.id != failed.id
    train = newest.recipe.train
    assert train.per_device_train_batch_size < 4
    assert train.per_device_train_batch_size * train.gradient_accumulation_steps == 4
    page.wait_for_selector("#relief", state="hidden")


def test_a_look_that_began_before_the_retry_does_not_go_back_to_the_old_run(visit, tiny_recipe, monkeypatch):
    told = {"reason": "out_of_memory", "device": "cpu", "dtype": "float32", "longest_tokens": 64}
    told |= {"estimated_memory_bytes": 9_000_000, "available_bytes": 1_000_000}
    failed = ended(tiny_recipe, ("failed", {"what": "No memory.", "fix": "", "traceback": "", **told}))
    page = visit(query=f"?run={failed.id}")
    page.wait_for_selector("#relief-steps input:checked")
    shown, on_its_way, retried = runs_tab.show, threading.Event(), threading.Event()

    def slow_look(context, tab, run_id, seen):
        updates = shown(context, tab, run_id, seen)
        if seen and run_id == failed.id and tab.run in updates:
            on_its_way.set()
            retried.wait(30)
        return updates

    monkeypatch.setattr(runs_tab, "show", slow_look)
    failed.label.changed(name="Changed meanwhile").write(failed.folder)  # something to show at the next look
    assert on_its_way.wait(30)
    page.click("#retry")
    page.wait_for_function("id => !document.querySelector('#run input').value.startsWith('Changed')")
    retried.set()
    page.wait_for_selector("#run-state .message.good", timeout=60_000)
    assert list_runs()[0].id in page.input_value("#run input")


def test_the_slider_goes_back_to_what_was_said_and_markup_stays_text(visit, tiny_recipe):
    said = {0: "base <i>says</i>", 4: "<img src=x onerror=document.title='hit'>", 8: "now"}
    samples = [("sample", {"step": s, "number": 0, "prompt": "Q <b>?", "output": o}) for s, o in said.items()]
    run = ended(tiny_recipe, ("started", {"max_steps": 8}), *samples, ("finished", {"step": 8}))
    page = visit(query=f"?run={run.id}")
    answer = page.locator(".sampled [data-number='0']")
    answer.wait_for()
    assert answer.inner_text() == "now"
    slider = page.locator(".sampled input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.sampled output').textContent === '4'")
    assert answer.inner_text() == said[4]
    assert page.locator(".said.base").inner_text().endswith("base <i>says</i>")
    assert page.locator(".sampled img").count() == 0
    assert page.title() == "SFT Studio"
