"""The check of the whole dataset on the Data tab."""

import json

from test_main_path import open_tab


def upload(page, *files) -> None:
    page.set_input_files("input[type=file] >> nth=0", [{**f, "mimeType": "application/octet-stream"} for f in files])


def test_several_files_are_one_dataset_and_checking_it_names_the_rows(visit):
    page = visit()
    open_tab(page, "Data")
    page.wait_for_selector(".rows details:visible")
    one = [{"question": f"What is {n}?", "answer": f"{n}."} for n in range(30)]
    other = [{"question": "what is 3?", "answer": "Three."}, {"question": "<b>Key</b>?", "answer": "hf_" + "k" * 34}]
    files = [
        {"name": f"{name}.jsonl", "buffer": "\n".join(map(json.dumps, rows)).encode()}
        for name, rows in (("one", one), ("other", other))
    ]
    upload(page, *files)
    page.wait_for_function("() => document.querySelector('#glance').innerText.includes('32 rows')")
    page.wait_for_function("() => document.querySelectorAll('.rows details').length === 20")
    page.click("#rows-after")
    page.wait_for_function("() => document.querySelectorAll('.rows details').length === 12")
    page.fill("#first-row input", "99")
    page.press("#first-row input", "Enter")
    page.wait_for_function("() => document.querySelector('#rows').innerText.includes('There is no row 99')")
    page.dblclick("#check-rows")
    page.wait_for_selector("#report .tiles")
    report = page.inner_text("#report")
    assert "32" in report.split("Kept")[1].split("\n")[1]
    assert "conflicting answers to one prompt" in report
    page.locator("#report .finding summary", has_text="possible secrets (keys, passwords)").click(
        position={"x": 8, "y": 12}
    )
    assert "hf_kkk…" in page.inner_text("#report")
    assert "hf_kkkk" not in page.inner_text("#report")
    assert not page.is_visible("#check-rows")  # nothing has changed since
    page.reload()
    page.wait_for_selector("#glance .panel")
    open_tab(page, "Data")
    page.wait_for_selector("#report .tiles")  # kept


def test_the_recipe_is_saved_with_one_click_as_it_was_edited(visit, tmp_path):
    from studio.recipe import Recipe

    page = visit()
    open_tab(page, "Method")
    page.get_by_label("Seed").fill("41")
    page.get_by_label("Seed").press("Tab")
    page.get_by_text("Save or load a recipe").click()
    page.wait_for_timeout(1500)  # the edit is on its way
    with page.expect_download() as download:
        page.click("#save-recipe")
    download.value.save_as(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml").train.seed == 41


def test_a_full_disk_is_said_beside_the_form(visit, monkeypatch):
    from studio.recipe import Recipe

    page = visit()
    open_tab(page, "Method")

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recipe, "save", full)
    page.get_by_label("Seed").fill("42")
    page.get_by_label("Seed").press("Tab")
    page.wait_for_function("() => document.querySelector('#glance').innerText.includes('No space left on device')")
    assert page.is_disabled("#launch")
