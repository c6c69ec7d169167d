"""The Data tab as a workbench: rows are found, filtered, sorted and cleaned, and a template is written and seen."""

import json

import pytest
from test_dataset_report import upload
from test_main_path import open_tab

WORDS = ("alpha", "beta", "gamma", "delta", "river", "stone", "cloud", "light", "paper", "green", "house", "evening")


def said(n: int, answer: str = "") -> dict:
    turns = [("user", f"Question {n}"), ("assistant", answer or " ".join(WORDS[: 3 + n % 9]) + f" {n}.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def messy(visit):
    """A page whose dataset has a row without an answer, a copy, and markup."""
    page = visit()
    open_tab(page, "Data")
    rows = [said(n) for n in range(30)]
    rows[3] = {"messages": [{"role": "user", "content": "nobody answers"}, {"role": "assistant", "content": ""}]}
    rows[9] = rows[8]
    rows[4] = said(4, '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> ${1+1} \u202eabc')
    upload(page, {"name": "messy.jsonl", "buffer": "\n".join(map(json.dumps, rows)).encode()})
    page.wait_for_function("() => document.querySelector('#glance').innerText.includes('29 rows')")
    page.wait_for_function("() => document.querySelectorAll('#rows .rows details').length === 20")
    return page


def rows_are(page, count: int) -> None:
    page.wait_for_function(f"() => document.querySelectorAll('#rows .rows details').length === {count}")


def check(page) -> None:
    """Have all rows checked, if that has not been done by another test."""
    page.wait_for_selector("#check-rows:visible, #report .tiles")
    if page.is_visible("#check-rows"):
        page.click("#check-rows")
    page.wait_for_selector("#report .tiles")


def test_rows_without_an_answer_block_the_launch_until_they_are_left_out(messy):
    assert messy.is_disabled("#launch")
    assert "1 row cannot be trained on" in messy.inner_text("#glance")
    messy.click("#drop-rows")
    messy.wait_for_function("() => !document.querySelector('#launch').disabled")
    assert not messy.is_visible("#drop-rows")


def test_rows_are_searched_filtered_and_sorted_and_a_finding_opens_its_rows(messy):
    messy.fill("#rows-search input, #rows-search textarea", "window.hacked")
    messy.press("#rows-search input, #rows-search textarea", "Enter")
    rows_are(messy, 1)
    assert messy.evaluate("window.hacked") is None
    assert "\\u202eabc" in messy.inner_text("#rows")
    check(messy)
    messy.click('#report [data-flag="duplicate"]')
    messy.wait_for_function("() => document.querySelector('#rows .facebar').innerText.includes('1 to 1 of 1')")
    assert "row 10" in messy.inner_text("#rows summary")
    messy.click("#rows-flag input")
    messy.get_by_role("option", name="All rows").click()
    rows_are(messy, 20)
    messy.click("#rows-order input")
    messy.get_by_role("option", name="Longest first").click()
    messy.wait_for_function("() => document.querySelector('#rows .facebar')?.innerText.includes('1 to 20 of 29')")
    lengths = [int(text.split()[0]) for text in messy.locator("#rows summary .t").all_inner_texts()]
    assert lengths == sorted(lengths, reverse=True)
    messy.click("#rows-after")
    rows_are(messy, 9)


def test_a_message_and_its_tokens_light_up_together_and_a_token_tells_its_id(messy):
    row = messy.locator("#rows .rows details").first
    row.locator(".turn.assistant").hover()
    lit = "".join(row.locator(".tokens .lit").all_inner_texts())
    assert said(0)["messages"][1]["content"] in lit
    assert "Question" not in lit
    row.locator('.tokens [data-turn="0"]').first.hover()
    assert "Question 0" in row.locator(".turn.lit").inner_text()
    told = row.locator(".readout").inner_text()
    assert told.startswith("token ")
    assert told.endswith(" · not trained")
    messy.hover("#rows .facebar")
    assert row.locator(".lit").count() == 0


def test_a_cleaned_copy_is_made_downloaded_and_trained_on(messy, tmp_path):
    check(messy)
    messy.click("#clean")
    messy.wait_for_selector("#clean-outcome .message.good")
    with messy.expect_download() as download:
        messy.click("#clean-download")
    download.value.save_as(tmp_path / "cleaned.jsonl")
    kept = [json.loads(line) for line in (tmp_path / "cleaned.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(kept) == 28
    assert all(row["messages"][-1]["content"] for row in kept)
    messy.click("#clean-use")
    messy.wait_for_function("() => document.querySelector('#glance').innerText.includes('28 rows')")
    assert not messy.is_disabled("#launch")


def test_the_line_of_the_histogram_moves_max_length_and_says_what_it_cuts(messy):
    check(messy)
    line = messy.locator("#report .limit rect").first
    line.scroll_into_view_if_needed()
    box = line.bounding_box()
    messy.mouse.move(box["x"] + box["width"] / 2, box["y"] + 80)
    messy.mouse.down()
    messy.mouse.move(messy.locator("#report svg").bounding_box()["x"] + 200, box["y"] + 80, steps=4)
    assert "tokens" in messy.inner_text("#report output")
    messy.mouse.up()
    messy.wait_for_function("() => document.querySelector('#data-max_length input').value < 512")
    limit = int(messy.input_value("#data-max_length input"))
    messy.wait_for_function(
        f"() => document.querySelector('#report .limit')?.getAttribute('aria-valuenow') == '{limit}'"
    )
    messy.wait_for_selector('#report [data-flag="too_long"], #report [data-flag="masked"]')


def test_a_template_is_written_with_its_rendering_beside_it_and_then_used(messy):
    messy.get_by_role("button", name="Chat template").click()
    messy.click("#template-start")
    editor = messy.locator("#template-editor .cm-content")
    messy.wait_for_function(
        "() => document.querySelector('#template-editor .cm-content').innerText.includes('messages')"
    )
    editor.click()
    messy.keyboard.press("Control+a")
    messy.keyboard.insert_text("{% for m in messages %}\n{{ m.content }}\n{% endfor\n")
    messy.wait_for_function("() => document.querySelector('#template-rendered').innerText.includes('broken at line 3')")
    editor.click()
    messy.keyboard.press("Control+a")
    messy.keyboard.insert_text("{% for m in messages %}<<{{ m.role }}>> {{ m.content }}<|im_end|>{% endfor %}")
    messy.wait_for_function(
        "() => document.querySelector('#template-rendered').innerText.includes('<<user>> Question')"
    )
    messy.click("#template-use")
    messy.wait_for_function("() => document.querySelector('#rows').innerText.includes('<<user>> Question')")
    assert "one written in the recipe" in messy.inner_text("#found")


def test_a_format_that_has_a_part_without_a_column_can_be_left_so(visit):
    page = visit()
    open_tab(page, "Data")
    rows = [{"instruction": f"Add {n}.", "input": "1 and 2", "output": "3"} for n in range(4)]
    upload(page, {"name": "alpaca.jsonl", "buffer": "\n".join(map(json.dumps, rows)).encode()})
    page.wait_for_function("() => document.querySelector('#rows').innerText.includes('1 and 2')")
    page.get_by_label("Input column").click()
    page.get_by_role("option", name="(none)").click()
    page.wait_for_function("() => !document.querySelector('#rows').innerText.includes('1 and 2')")
