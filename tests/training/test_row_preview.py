"""The rows that the page shows: paged in file order, found by text, filtered and sorted by the report's findings."""

import json
import pickle
import signal
import time
from html import unescape
from itertools import chain

import pytest
from lessons import lesson

from studio.data import encode_once, encode_rows, load_conversations
from studio.data.encode import Encoded
from studio.data.load import not_used
from studio.data.quality_report import Report
from studio.errors import StudioError
from studio.training import row_preview as module
from studio.training.check import check, prepared_tokenizer
from studio.training.row_preview import Wanted, answer, view
from studio.ui.data.report_panel import html as report_html
from studio.ui.data.row_html import html
from studio.ui.data.rows_panel import found_html

pytestmark = pytest.mark.usefixtures("home")

INVALID = {5, 17}  # rows without an answer
COPIES = {9: 8, 20: 8}  # row: the row that it is a copy of


def row(number: int) -> dict:
    number = COPIES.get(number, number)
    said = "" if number in INVALID else f"Answer {number}" + " again" * (number * 7 % 11) + "."
    return {"prompt": f"Question {number}?", "completion": said}


@pytest.fixture
def recipe(tiny_model, tmp_path):
    """A recipe over 25 rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(1, 26)))
    return lesson(tiny_model, path)


@pytest.fixture
def show(recipe):
    """A function that shows rows of the recipe."""
    tokenizer, notes = prepared_tokenizer(recipe)
    return lambda **wanted: view(Wanted(recipe, **wanted), tokenizer, list(notes))


def numbers(shown) -> list[int]:
    return [conversation.row for conversation, _ in shown.rows]


def pages(show, **wanted) -> list[list[int]]:
    """The row numbers of all pages, from the first on."""
    found, start = [], 1
    while start:
        shown = show(start=start, **wanted)
        found.append(numbers(shown))
        assert shown.next is None or shown.next > start, "it would go on for ever"
        start = shown.next
    return found


# in file order


def test_the_first_page_is_the_first_rows(show):
    shown = show(count=10)
    assert numbers(shown) == list(range(1, 11))
    assert (shown.previous, shown.next) == (None, 11)


def test_a_page_in_the_middle_knows_its_neighbours(show):
    shown = show(start=11, count=10)
    assert numbers(shown) == list(range(11, 21))
    assert (shown.previous, shown.next) == (1, 21)


def test_the_last_page_is_what_is_left(show):
    shown = show(start=21, count=10)
    assert numbers(shown) == list(range(21, 26))
    assert (shown.previous, shown.next) == (11, None)


def test_the_page_before_begins_no_earlier_than_the_first_row(show):
    assert show(start=4, count=10).previous == 1


def test_a_start_beyond_the_end_shows_nothing_and_leads_back(show):
    shown = show(start=99, count=10)
    assert shown.rows == []
    assert (shown.previous, shown.next) == (89, None)


@pytest.mark.parametrize("count", [1, 4, 25, 100])
def test_all_pages_together_are_all_rows_in_order(show, count):
    assert list(chain(*pages(show, count=count))) == list(range(1, 26))


def test_lines_that_are_blank_are_no_rows_of_a_page(show, recipe):
    with open(recipe.data.source, "w") as file:
        file.write("\n\n".join(json.dumps(row(n)) for n in range(1, 9)))
    assert pages(show, count=3) == [[1, 3, 5], [7, 9, 11], [13, 15]]


def test_each_row_has_the_example_that_is_trained_on(show, recipe):
    examples, _ = encode_rows(prepared_tokenizer(recipe)[0], load_conversations(recipe.data), recipe.data)
    shown = [encoded for _, encoded in show(count=25).rows if isinstance(encoded, Encoded)]
    assert [e.input_ids for e in shown] == [e.input_ids for e in examples]
    assert [e.labels for e in shown] == [e.labels for e in examples]


def test_a_row_that_is_left_out_is_shown_with_the_reason(show):
    problems = {c.row: made for c, made in show(count=25).rows if isinstance(made, str)}
    assert problems == dict.fromkeys(sorted(INVALID), "the assistant's answer is empty")


def test_a_row_that_the_template_refuses_is_shown_with_what_the_template_says(show, recipe):
    recipe.data.chat_template = (
        "{% for m in messages %}{% if m.content == 'Question 2?' %}{{ raise_exception('not this one') }}{% endif %}"
        "{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    tokenizer, notes = prepared_tokenizer(recipe)
    made = [made for _, made in view(Wanted(recipe, count=3), tokenizer, notes).rows]
    assert "not this one" in made[1]
    assert isinstance(made[0], Encoded)
    assert isinstance(made[2], Encoded)


def test_a_view_says_the_columns_and_the_source(show):
    shown = show(count=1)
    assert shown.columns == ["prompt", "completion"]
    assert [name for name, _ in shown.sources] == ["rows.jsonl"]
    assert shown.mapping.format == "prompt_completion"


def test_each_source_of_a_mixture_is_said_with_its_shape(show, recipe, tmp_path):
    (tmp_path / "more.csv").write_text("question,answer\nq,a\n")
    mix = [{"source": str(tmp_path / "more.csv")}]
    recipe.data = recipe.data.model_validate({**recipe.data.model_dump(), "mix": mix})
    shown = show(start=25)
    assert [name for name, _ in shown.sources] == ["rows.jsonl", "more.csv"]
    assert "Question and answer".casefold() in shown.sources[1][1].casefold()
    assert [c.where for c, _ in shown.rows] == ["rows.jsonl, row 25", "more.csv, row 2"]


# found by text


def test_a_text_is_found_in_any_message_case_aside(show):
    assert numbers(show(text="qUESTION 2")) == [2, 21, 22, 23, 24, 25]
    assert numbers(show(text="ANSWER 3 AGAIN")) == [3]


def test_the_pages_of_a_text_are_all_its_rows_in_order(show):
    every = [n for n in range(1, 26) if "again again again" in row(n)["completion"]]
    assert len(every) > 8
    for count in (1, 3, 25):
        assert list(chain(*pages(show, text="again again again", count=count))) == every


def test_a_text_that_is_nowhere_shows_nothing_and_ends(show):
    shown = show(text="nowhere")
    assert (shown.rows, shown.next) == ([], None)


def test_a_text_is_looked_for_from_the_start_on(show):
    assert numbers(show(text="Question 2", start=22)) == [22, 23, 24, 25]


def test_a_search_that_takes_too_long_stops_and_says_how_far_it_came(show, monkeypatch):
    monkeypatch.setattr(module, "_SEARCH_SECONDS", -1)
    shown = show(text="Question 25")
    assert shown.rows == []
    assert (shown.searched, shown.next) == (1, 2)
    assert [25] in pages(show, text="Question 25")


# by the report


@pytest.mark.parametrize("wanted", [{"flag": "duplicate"}, {"order": "longest"}])
def test_rows_are_not_filtered_or_sorted_before_they_are_checked(show, wanted):
    with pytest.raises(StudioError, match="once all of them have been checked"):
        show(**wanted)


def test_a_flag_shows_its_rows_and_how_many_there_are(show, recipe):
    check(recipe)
    shown = show(flag="duplicate")
    assert numbers(shown) == sorted(COPIES)
    assert shown.total == 2
    dropped = show(flag="dropped")
    assert numbers(dropped) == sorted(INVALID)
    assert all(made == "the assistant's answer is empty" for _, made in dropped.rows)


def test_a_flag_without_rows_shows_none(show, recipe):
    check(recipe)
    shown = show(flag="secret")
    assert (shown.rows, shown.total, shown.next, shown.previous) == ([], 0, None, None)


@pytest.mark.parametrize("order", ["longest", "shortest"])
def test_an_order_shows_every_row_that_has_a_length_by_it(show, recipe, order):
    check(recipe)
    shown = show(order=order, count=100)
    lengths = [len(made.input_ids) + made.cut for _, made in shown.rows]
    assert lengths == sorted(lengths, reverse=order == "longest")
    assert lengths[0] != lengths[-1]
    assert sorted(numbers(shown)) == [n for n in range(1, 26) if n not in INVALID]


def test_the_pages_of_an_order_are_the_order(show, recipe):
    check(recipe)
    whole = numbers(show(order="longest", count=100))
    assert pages(show, order="longest", count=6) == [whole[:6], whole[6:12], whole[12:18], whole[18:]]


def test_a_page_of_an_order_knows_its_neighbours(show, recipe):
    check(recipe)
    shown = show(order="longest", start=7, count=6)
    assert (shown.previous, shown.next, shown.total) == (1, 13, 23)


def test_a_text_is_found_within_an_order(show, recipe):
    check(recipe)
    whole = numbers(show(order="shortest", count=100))
    shown = show(order="shortest", text="question 2", count=4)
    matching = [n for n in whole if "Question 2" in row(n)["prompt"]]
    assert numbers(shown) == matching[:4]
    assert (shown.total, shown.next) == (6, 5)


def test_a_text_is_found_within_a_flag(show, recipe):
    check(recipe)
    assert numbers(show(flag="dropped", text="Question 17")) == []  # of a row that is left out nothing is kept
    assert numbers(show(flag="duplicate", text="answer 8")) == sorted(COPIES)


def test_a_changed_setting_has_to_be_checked_again(show, recipe):
    check(recipe)
    recipe.data.max_length = 99
    with pytest.raises(StudioError, match="once all of them have been checked"):
        show(order="longest")


def test_rows_of_a_mixture_are_filtered_by_their_numbers(show, recipe, tmp_path):
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in (30, 3, 5)))
    mix = [{"source": str(tmp_path / "more.jsonl"), "weight": 2}]
    recipe.data = recipe.data.model_validate({**recipe.data.model_dump(), "mix": mix})
    check(recipe)
    assert numbers(show(flag="duplicate")) == [9, 20, 27]
    assert numbers(show(flag="dropped")) == [5, 17, 28]


# hostile templates

LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
HOSTILE = (
    "{% for m in messages %}{% if m.content.startswith('Question 2') %}" + LOOP + "{% endif %}"
    "{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
)


@pytest.fixture
def hostile(recipe, monkeypatch):
    """A template that loops at some rows, and half a second for it."""
    recipe.data.chat_template = HOSTILE
    monkeypatch.setattr(module, "_ROW_SECONDS", 0.5)
    tokenizer, notes = prepared_tokenizer(recipe)
    return lambda **wanted: view(Wanted(recipe, **wanted), tokenizer, list(notes))


def test_a_template_that_loops_ends_within_its_time_and_is_said(hostile):
    before = time.monotonic()
    with pytest.raises(StudioError, match=r"did not end within 0\.5 seconds") as caught:
        hostile(count=3)
    assert time.monotonic() - before < 5
    assert "Look for a loop in it" in caught.value.fix
    assert caught.value.field == "data.chat_template"


def test_rows_that_a_template_does_not_loop_at_are_shown(hostile):
    assert numbers(hostile(start=3, count=4)) == [3, 4, 5, 6]


def test_after_a_template_that_looped_no_alarm_is_left(hostile):
    before = signal.getsignal(signal.SIGALRM)
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    with pytest.raises(StudioError):
        hostile(count=3)
    assert left - 5 < signal.getitimer(signal.ITIMER_REAL)[0] <= left
    assert signal.getsignal(signal.SIGALRM) == before


# requests


def test_a_request_for_the_template_is_answered_with_its_text(recipe):
    recipe.data.chat_template = HOSTILE
    assert answer(("template", recipe), {}) == HOSTILE


def test_tokenizers_are_kept_and_only_a_few_of_them(recipe, monkeypatch):
    kept, made, one = {}, [], prepared_tokenizer(recipe)
    monkeypatch.setattr(module, "prepared_tokenizer", lambda wanted: made.append(wanted.data.chat_template) or one)
    for _ in range(3):
        answer(("view", Wanted(recipe, count=1)), kept)
    assert made == ["auto"]
    for number in range(6):
        recipe.data.chat_template = f"{HOSTILE}{number}"
        answer(("template", recipe), kept)
    assert len(made) == 7
    assert len(kept) == 4


QWEN = (  # earlier replies lose their reasoning, as in Qwen3's own template
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning_content and loop.last %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def thoughts(tiny_model, tmp_path):
    """A recipe over ten conversations of two replies that lose their first thought."""
    path = tmp_path / "thoughts.jsonl"
    with path.open("w") as file:
        for number in range(10):
            turns = []
            for turn in "ab":
                turns.append({"role": "user", "content": f"ask{number}{turn}"})
                thought = {"reasoning_content": f"thought{number}{turn}"}
                turns.append({"role": "assistant", "content": f"say{number}{turn}", **thought})
            file.write(json.dumps({"messages": turns}) + "\n")
    made = lesson(tiny_model, path)
    return made.model_copy(update={"data": made.data.model_copy(update={"chat_template": QWEN})})


def split(recipe):
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"split_turns": True})})


def test_data_06_lost_reasoning_is_counted_by_the_check_and_listed_in_the_view(thoughts):
    assert check(thoughts).found("reasoning_dropped") == 10
    tokenizer, notes = prepared_tokenizer(thoughts)
    shown = view(Wanted(thoughts, flag="reasoning_dropped"), tokenizer, notes)
    assert len(shown.rows) == 10
    assert all("reasoning_dropped" in {flag.code for flag in encoded.flags} for _, encoded in shown.rows)


def test_data_06_one_example_per_reply_is_counted_shown_and_encoded_alike(thoughts):
    recipe = split(thoughts)
    report = check(recipe)
    assert (report.rows, report.kept) == (10, 20)
    assert report.found("reasoning_dropped") == report.found("context_mismatch") == 0
    tokenizer, notes = prepared_tokenizer(recipe)
    shown = view(Wanted(recipe, count=3), tokenizer, notes)
    assert [(c.row, e.turn) for c, e in shown.rows] == [(1, 1), (1, 3), (2, 1), (2, 3), (3, 1), (3, 3)]
    assert [len(c.messages) for c, _ in shown.rows] == [2, 4] * 3
    kept, _ = encode_once(tokenizer, load_conversations(recipe.data), recipe.data)
    again, _ = encode_once(tokenizer, load_conversations(recipe.data), recipe.data)
    assert [(one.row, one.turn) for one in kept] == [(row, turn) for row in range(1, 11) for turn in (1, 3)]
    assert [(one.input_ids, one.labels, one.turn) for one in again] == [
        (one.input_ids, one.labels, one.turn) for one in kept
    ]
    assert [one.input_ids for one in kept[:6]] == [e.input_ids for _, e in shown.rows]
    assert sum(len(one.input_ids) for one in kept) == report.tokens


def test_data_16_a_refused_row_is_shown_with_its_code_the_rendered_row_and_the_place(thoughts):
    broken = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    recipe = thoughts.model_copy(update={"data": thoughts.data.model_copy(update={"chat_template": broken})})
    tokenizer, notes = prepared_tokenizer(recipe)
    shown = view(Wanted(recipe, count=1), tokenizer, notes)
    ((_, reason),) = pickle.loads(pickle.dumps(shown.rows))
    assert reason.code == "turn_not_closed"
    assert "say0a" in reason.rendered
    assert check(recipe).refusals == {"turn_not_closed": 10}
    assert "<mark>" in html(shown.rows)


def test_the_page_shows_flags_and_which_reply_an_example_is_of(thoughts):
    for recipe, part in ((thoughts, "reasoning_dropped"), (split(thoughts), "reply 4")):
        tokenizer, notes = prepared_tokenizer(recipe)
        assert part in html(view(Wanted(recipe, count=1), tokenizer, notes).rows)


@pytest.fixture
def parted(tiny_model, tmp_path):
    """A recipe over a folder with a training and a test file, whose rows have a column that is not used."""
    for name in ("train", "test"):
        rows = [{"prompt": f"{name} {n}?", "completion": f"Answer {n}.", "id": n} for n in range(4)]
        (tmp_path / "ds" / name).mkdir(parents=True)
        (tmp_path / "ds" / name / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lesson(tiny_model, tmp_path / "ds")


def test_data_01_and_03_view_report_and_page_name_unused_columns_and_left_out_files(parted):
    tokenizer, notes = prepared_tokenizer(parted)
    seen = view(Wanted(parted), tokenizer, list(notes))
    report = check(parted)
    for found in (seen, report, Report.from_json(report.to_json())):
        assert [(one["column"], one["rows"]) for one in found.unused_columns] == [("id", 4)]
        assert [dict(one["left_out"]) for one in found.splits] in (
            [{"test": ("test/a.jsonl",)}],
            [{"test": ["test/a.jsonl"]}],
        )
        assert any("id" in note for note in found.notes)
        assert any("test/a.jsonl" in note for note in found.notes)
    page = unescape(found_html(seen))
    assert 'data-unused-columns="["id"]"' in page
    assert '"test": ["test/a.jsonl"]' in page
    assert "test/a.jsonl" in report_html(report)


def test_data_01_and_03_what_is_not_used_is_kept_with_the_loaded_rows(parted):
    assert not_used(parted.data) == {"unused_columns": [], "splits": [], "notes": []}
    load_conversations(parted.data)
    kept = not_used(parted.data)
    assert [(one["column"], one["rows"]) for one in kept["unused_columns"]] == [("id", 4)]
    assert kept["splits"][0]["left_out"] == {"test": ["test/a.jsonl"]}
    assert len(kept["notes"]) == 2
