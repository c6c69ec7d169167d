"""The form of each browser: its own, kept in the workspace, bounded in number."""

import pytest

from studio.recipe import Recipe
from studio.ui import drafts
from studio.ui.app import read_kept
from studio.ui.drafts import is_browser, keep_draft, load_draft
from studio.workspace import Workspace

FIRST, SECOND, NEW = "a" * 32, "b" * 32, "c" * 32


def steps(number: int) -> Recipe:
    return Recipe.parse({"name": "mine", "train": {"max_steps": number}})


def test_page_08_a_second_browser_does_not_overwrite_the_form_of_the_first(home):
    keep_draft(steps(6), FIRST)
    keep_draft(steps(9), SECOND)
    assert (load_draft(FIRST).train.max_steps, load_draft(SECOND).train.max_steps) == (6, 9)


def test_page_08_a_new_browser_starts_from_the_form_that_was_kept_last(home):
    assert load_draft(NEW).name == "quickstart"
    keep_draft(steps(6), FIRST)
    keep_draft(steps(9), SECOND)
    assert load_draft(NEW).train.max_steps == 9


@pytest.mark.parametrize("text", ["", None, "../../etc/passwd", "A" * 32, "a" * 31, "a" * 32 + "\n"])
def test_page_01_a_form_that_was_not_loaded_is_neither_kept_nor_one_of_a_browser(home, text):
    assert not is_browser(text)
    keep_draft(steps(6), text)
    assert not Workspace.current().draft.exists()
    assert list(Workspace.current().drafts.iterdir()) == []


def test_page_08_the_number_of_drafts_is_bounded_and_the_oldest_goes(home, monkeypatch):
    monkeypatch.setattr(drafts, "MOST_DRAFTS", 3)
    for digit in "12345":
        keep_draft(steps(int(digit)), digit * 32)
    assert sorted(path.stem[0] for path in Workspace.current().drafts.iterdir()) == ["3", "4", "5"]


def test_page_08_a_damaged_draft_is_passed_over(home):
    keep_draft(steps(6), FIRST)
    (Workspace.current().drafts / f"{FIRST}.yaml").write_text("train: [", encoding="utf-8")
    assert load_draft(FIRST).train.max_steps == 6, "the one that was kept last"


@pytest.mark.parametrize("text", ["", None, "[", "[1]", "null", '{"tab": "runs"}'])
def test_page_08_what_a_window_kept_is_read_whatever_it_is(text):
    assert set(read_kept(text)) == {"tab", "compare", "preset"}
