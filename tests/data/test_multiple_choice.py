"""Multiple-choice questions keep their choices, and the answer names one of them."""

import pytest

from studio.data.detect import detect
from studio.data.formats import convert
from studio.data.multiple_choice import choices_of, first_index, position
from studio.data.turns import RowRejected

CITIES = ["Paris", "Rome", "Bern"]


def read(*rows: dict) -> list[list[str]]:
    mapping = detect(list(rows))
    assert mapping.format == "multiple_choice"
    return [[message["content"] for message in convert(row, mapping)["messages"]] for row in rows]


@pytest.mark.parametrize(
    "choices",
    [
        CITIES,
        {"text": CITIES, "label": ["A", "B", "C"]},
        {"A": "Paris", "B": "Rome", "C": "Bern"},
        [{"label": "A", "text": "Paris"}, {"label": "B", "text": "Rome"}, {"label": "C", "text": "Bern"}],
        ["A) Paris", "B) Rome", "C) Bern"],
        '["Paris", "Rome", "Bern"]',
    ],
)
@pytest.mark.parametrize("answer", ["C", "c", "(C)", "C.", 2, "2", "Bern", "C. Bern", 2.0])
def test_data_16_choices_stay_in_the_prompt_and_the_answer_is_resolved(choices, answer):
    row = {"question": "Capital of Switzerland?", "choices": choices, "answerKey": answer}
    first = {**row, "answerKey": 0}  # says that numbers count from 0
    user, said = read(row, first)[0]
    assert user == "Capital of Switzerland?\n\nA. Paris\nB. Rome\nC. Bern"
    assert said == "C. Bern"


def test_data_16_labels_that_are_numbers_win_over_positions():
    choices = {"text": CITIES, "label": ["1", "2", "3"]}
    assert read({"question": "q", "choices": choices, "answerKey": "2"}) == [
        ["q\n\n1. Paris\n2. Rome\n3. Bern", "2. Rome"]
    ]


def test_data_16_numbers_of_a_dataset_that_counts_from_one_are_positions_from_one():
    rows = [{"question": "q", "options": CITIES, "answer": number} for number in (1, 3)]
    assert [said for _, said in read(*rows)] == ["A. Paris", "C. Bern"]


def test_data_16_it_is_reported_where_the_first_number_is_not_certain():
    assert first_index([(CITIES, 1)]) == (0, False)
    assert first_index([(CITIES, 0), (CITIES, 1)]) == (0, True)
    assert first_index([(CITIES, 3)]) == (1, True)
    assert first_index([(CITIES, "B")]) == (0, True)


def test_data_16_an_answer_that_names_no_choice_rejects_the_row_with_a_code():
    row = {"question": "q", "choices": CITIES, "answer": "A"}
    mapping = detect([row])
    for answer in ("Oslo", 3, -1, "E", True):
        with pytest.raises(RowRejected) as caught:
            convert({**row, "answer": answer}, mapping)
        assert caught.value.code == "choices"


def test_data_16_choices_that_an_answer_does_not_name_make_no_multiple_choice_question():
    row = {"question": "q", "choices": CITIES, "answer": "It is the seat of the government."}
    mapping = detect([row])
    assert (mapping.format, mapping.unused) == ("question_answer", ("choices",))


def test_choices_that_are_no_list_of_texts_are_none():
    for value in (None, "Paris", [], ["one"], [1, None], {"a": []}, 3, [["x"], ["y"]]):
        assert choices_of(value) is None
    assert position("B", *choices_of(CITIES)) == 1
