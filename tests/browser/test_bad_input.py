"""What a person gets wrong: a plain message with the place and the remedy, and never a traceback on the page."""

from __future__ import annotations

import json
import re

import pytest


def open_tab(page, name):
    page.get_by_role("tab", name=re.compile(name)).click()


@pytest.fixture
def upload(visit, tmp_path):
    """Upload a file of this name and content in the Data tab; returns the page once ``words`` are ``where``."""

    def do(name: str, content: bytes, words: str, where: str = "#found"):
        page = visit()
        open_tab(page, "Data")
        page.wait_for_selector("#found .message")
        path = tmp_path / name
        path.write_bytes(content)
        with page.expect_file_chooser() as chooser:
            page.click("#upload")
        chooser.value.set_files(str(path))
        page.wait_for_function(
            "([where, words]) => document.querySelector(where)?.innerText.includes(words)", arg=[where, words]
        )
        assert "Traceback" not in page.inner_text("body")
        return page

    return do


def rows(*values: dict) -> bytes:
    return b"".join(json.dumps(v).encode() + b"\n" for v in values)


GOOD = {"prompt": "Say hello.", "completion": "Hello."}


def test_broken_json_is_named_by_its_line(upload):
    content = rows(*[GOOD] * 36) + b'{"prompt": "a", "completion": \n' + rows(GOOD)
    page = upload("broken.jsonl", content, "line 37", where="#glance")
    assert "broken JSON" in page.inner_text("#glance")
    assert page.locator("#launch").is_disabled()


def test_a_binary_file_named_jsonl_is_refused(upload):
    page = upload("picture.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(200), "not a text file")
    assert "PNG" in page.inner_text("#found")


def test_rows_without_an_assistant_turn_are_counted_and_block_the_launch(upload):
    only_user = {"messages": [{"role": "user", "content": "Anybody there?"}]}
    page = upload("mute.jsonl", rows(only_user, only_user), "no assistant turn")
    page.wait_for_selector("#glance .message.bad")
    assert "No row" in page.inner_text("#glance")
    assert page.locator("#launch").is_disabled()


def test_unknown_columns_are_listed_with_the_way_to_choose_them(upload):
    page = upload("odd.jsonl", rows({"foo": "a", "bar": "b"}), "Unrecognised format")
    assert "foo, bar" in page.inner_text("#found")


def test_scripts_markup_and_templates_in_a_message_show_as_text(upload):
    nasty = "<img src=x onerror=alert(1)><script>document.title='pwned'</script> ${7*7} {{7*7}} \u202eabc مرحبا"
    page = upload("nasty.jsonl", rows({"prompt": nasty, "completion": nasty}), "prompt and completion")
    page.wait_for_selector(".rows details[open] .turn")
    text = page.inner_text(".rows details[open]")
    assert "<script>" in text
    assert "${7*7}" in text
    assert "{{7*7}}" in text
    assert page.locator(".rows img, .rows script").count() == 0
    assert page.title() != "pwned"


def test_an_empty_file_is_refused(upload):
    upload("empty.jsonl", b"", "empty")


def test_a_rank_out_of_bounds_is_refused_with_its_bounds(visit):
    page = visit()
    open_tab(page, "Method")
    page.fill("#method-lora-r input", "0")
    page.wait_for_selector("#glance .message.bad")
    assert "Rank" in page.inner_text("#glance")
    assert "1 to 1,024" in page.inner_text("#glance")
    assert page.locator("#launch").is_disabled()
    page.fill("#method-lora-r input", "4")
    page.wait_for_selector("#glance .message.bad", state="detached")
    assert page.locator("#launch").is_enabled()


def test_a_model_that_does_not_exist_says_so_and_how_to_mend_it(visit):
    page = visit()
    page.fill("#model-id input", "/nowhere/at-all")
    page.keyboard.press("Enter")
    page.wait_for_selector("#glance .message.bad")
    assert "/nowhere/at-all" in page.inner_text("#glance")
    assert page.locator("#launch").is_disabled()


def test_a_recipe_file_with_several_faults_is_refused_with_all_of_them(visit, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("train: {learning_rat: 1, seed: -1}\nmethod: {kind: lora, r: 0}\n", encoding="utf-8")
    page = visit()
    page.get_by_text("Save or load a recipe").click()
    with page.expect_file_chooser() as chooser:
        page.click("#load-recipe")
    chooser.value.set_files(str(bad))
    page.wait_for_selector("#launch-note .message.bad")
    text = page.inner_text("#launch-note")
    assert "train.learning_rat" in text
    assert "learning_rate" in text
    assert "train.seed" in text
    assert "method.r" in text
