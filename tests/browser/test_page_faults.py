"""The form, the prompt and a reload: what a person does first on the page."""

from __future__ import annotations

from test_main_path import open_tab

RATE = "#train-learning_rate input"
READY = "() => !document.querySelector('#launch').disabled"


def test_page_05_and_18_arrow_keys_step_by_factors_and_an_emptied_field_is_marked(visit):
    page = visit()
    page.wait_for_function(READY)
    open_tab(page, "Method")
    page.fill(RATE, "0.002")
    for key, value in (("ArrowUp", "0.005"), ("ArrowDown", "0.002"), ("ArrowDown", "0.001")):
        page.press(RATE, key)
        assert page.input_value(RATE) == value
    page.fill(RATE, "")
    page.wait_for_selector(f"{RATE}[aria-invalid=true]")
    assert page.is_disabled("#launch")
    page.fill(RATE, "0.003")
    page.wait_for_selector(f"{RATE}:not([aria-invalid])")
    page.wait_for_function(READY)


def test_page_08_a_reload_restores_form_and_tab_and_another_browser_has_its_own(visit):
    page, other = visit(), visit()
    for each, steps in ((page, "6"), (other, "9")):
        each.wait_for_function(READY)
        open_tab(each, "Method")
        each.fill("#train-max_steps input", steps)
        each.wait_for_function(
            "steps => document.querySelector('#glance').innerText.includes(steps)", arg=f"about {steps}"
        )
        each.wait_for_timeout(300)
    page.reload()
    page.wait_for_function(READY)
    page.wait_for_function("() => document.querySelector('#train-max_steps input')?.value === '6'")


def test_page_01_page_02_launch_waits_for_the_form_and_enter_sends_while_shift_enter_does_not(visit):
    page = visit()
    page.wait_for_function(READY)
    assert len(page.input_value("#browser :is(input, textarea)")) == 32
    open_tab(page, "Compare")
    box = "#prompt textarea"
    page.wait_for_selector(f"{box}:visible")
    page.press(box, "Enter")
    page.wait_for_selector("#compare-notice .message")
    page.focus(box)
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value(box) == "one\ntwo"
    page.wait_for_selector("#compare-notice .message", state="detached")
