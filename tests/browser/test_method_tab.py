"""The Method tab: a method shows its own fields and is the one that is trained; presets say what they change."""

import pytest
from test_main_path import launch, open_tab, wait_for_status

from studio.recipe.methods import METHODS


@pytest.fixture
def page(visit):
    page = visit()
    open_tab(page, "Method")
    return page


def choose(page, kind: str) -> None:
    page.get_by_role("radio", name=METHODS[kind].title, exact=True).click()
    page.wait_for_selector(f"#method-{kind}", state="visible" if _has_fields(kind) else "attached")
    page.wait_for_function(
        "title => document.querySelector('#glance').innerText.includes(title)", arg=METHODS[kind].title
    )


def _has_fields(kind: str) -> bool:
    return len(METHODS[kind].model_fields) > 1


def test_only_the_chosen_methods_fields_are_shown(page):
    for kind in ("full", "ia3", "ln_tuning", "bottleneck"):
        choose(page, kind)
        shown = [other for other in METHODS if page.locator(f"#method-{other}").is_visible()]
        assert shown == ([kind] if _has_fields(kind) else [])


def test_a_method_brings_the_learning_rate_that_suits_it_until_one_is_chosen(page):
    choose(page, "ia3")
    page.wait_for_function("() => document.querySelector('#train-learning_rate input').value === '0.03'")
    page.fill("#train-learning_rate input", "0.0042")
    page.press("#train-learning_rate input", "Tab")
    choose(page, "vera")
    assert page.input_value("#train-learning_rate input") == "0.0042"


def test_quantisation_is_offered_beside_adapters_alone(page):
    assert page.is_visible("#model-quantization")
    choose(page, "full")
    page.wait_for_selector("#model-quantization", state="hidden")


def test_what_does_not_go_together_is_said_and_blocks_the_launch(page):
    choose(page, "loha")
    page.click("#model-quantization input")
    page.get_by_role("option", name="4 bits, NF4 (QLoRA)").click()
    page.wait_for_function("() => document.querySelector('#glance').innerText.includes('LoHa changes the weights')")
    assert page.is_disabled("#launch")


def test_a_preset_fills_the_form_and_says_what_it_changed(page):
    page.click("#preset-long-context")
    page.wait_for_function("() => document.querySelector('#preset-changed').innerText.includes('Long context')")
    text = page.inner_text("#preset-changed")
    assert "Max length: 64 → 4096" in text.replace(" (tokens)", "")
    page.wait_for_function("() => document.querySelector('#train-gradient_accumulation_steps input').value === '8'")
    page.click("#preset-long-context")
    page.wait_for_function("() => document.querySelector('#preset-changed').innerText.includes('Nothing to change')")


def test_the_chosen_method_is_the_one_that_is_trained(page):
    choose(page, "bottleneck")
    page.fill("#method-bottleneck-reduction_factor input", "4")
    page.press("#method-bottleneck-reduction_factor input", "Tab")
    page.wait_for_timeout(500)
    run = launch(page)
    wait_for_status(page, "Finished")
    assert (run.recipe.method.kind, run.recipe.method.reduction_factor) == ("bottleneck", 4)
    assert (run.model_dir / "adapter_config.json").exists()


def test_with_classes_the_data_tab_has_no_chat_template(visit):
    page = visit()
    open_tab(page, "Model")
    page.click("#model-task input")
    page.get_by_role("option", name="Text classification").click()
    open_tab(page, "Data")
    page.wait_for_selector("#data-train_on", state="hidden")
    page.wait_for_selector("#template", state="hidden")
    assert page.is_visible("#data-max_length")
