"""A tuned model is shipped from the page: made, told, taken along; and a reload shows the same."""

import zipfile

import pytest
from lessons import done


@pytest.fixture(scope="module")
def run(tiny_recipe):
    train = tiny_recipe.train.model_copy(update={"max_steps": 2, "sample_count": 0, "device": "cpu"})
    return done(tiny_recipe.model_copy(update={"train": train}))


def opened(page):
    page.locator("#ship").get_by_role("button", name="Export").first.click()
    page.wait_for_selector("#ship-go", state="visible")
    return page


def test_an_adapter_is_made_and_downloaded(visit, run, tmp_path):
    page = opened(visit(f"?run={run.id}"))
    page.locator("#ship-kind").get_by_text("Adapter", exact=True).click()
    page.wait_for_selector("#ship-dtype", state="hidden")
    page.click("#ship-go")
    page.wait_for_selector(".ship-download", timeout=180_000)
    assert "byte for byte" in page.inner_text("#ship-state")
    with page.expect_download() as told:
        page.click(".ship-download")
    told.value.save_as(tmp_path / "adapter.zip")
    assert "adapter/adapter_config.json" in zipfile.ZipFile(tmp_path / "adapter.zip").namelist()
    page.reload()
    page.wait_for_selector("#glance .panel")
    opened(page)
    page.wait_for_selector(".ship-download")


def test_code_comes_with_a_button_that_copies_it(visit, run):
    page = opened(visit(f"?run={run.id}"))
    page.locator("#ship-kind").get_by_text("Code", exact=True).click()
    page.click("#ship-go")
    page.wait_for_selector("#ship-transformers", state="visible", timeout=180_000)
    assert "PeftModel.from_pretrained" in page.inner_text("#ship-transformers")
    assert page.locator("#ship-transformers button[title*='opy'], #ship-transformers button[aria-label*='opy']").count()


def test_a_refusal_is_a_sentence(visit, run):
    page = opened(visit(f"?run={run.id}"))
    page.locator("#ship-kind").get_by_text("Whole model", exact=True).click()
    page.fill("#ship-to input, #ship-to textarea", str(run.folder))
    page.click("#ship-go")
    page.wait_for_selector("text=exists already", timeout=60_000)
