"""Rows of every known shape become the same canonical conversations, and what cannot is dropped with a reason."""

import pytest

from studio.data.detect import detect
from studio.data.formats import convert
from studio.data.turns import RowRejected
from studio.errors import StudioError

SYSTEM = {"role": "system", "content": "Be brief."}
ASK, SAY = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
AGAIN, MORE = {"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Yes."}


def read(row, format="auto", columns=None, system_prompt=None):
    """The format found in one row, and the row converted by it."""
    mapping = detect([row], format, columns)
    content = convert(row, mapping, system_prompt)
    return mapping.format, content.get("messages") or content["text"]


def dropped(row, format="auto", columns=None) -> str:
    mapping = detect([row], format, columns)
    with pytest.raises(RowRejected) as caught:
        convert(row, mapping)
    return str(caught.value)


def refusal(rows, format="auto", columns=None) -> StudioError:
    with pytest.raises(StudioError) as caught:
        detect(rows, format, columns)
    return caught.value


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [SYSTEM, ASK, SAY]}, ("messages", [SYSTEM, ASK, SAY])),
        ({"id": 3, "dialogue": [ASK, SAY]}, ("messages", [ASK, SAY])),
        ({"conversations": [ASK, SAY]}, ("messages", [ASK, SAY])),
        (
            {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
            ("sharegpt", [ASK, SAY]),
        ),
        (
            {
                "system": "Be brief.",
                "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}],
            },
            ("sharegpt", [SYSTEM, ASK, SAY]),
        ),
        (
            {"conversations": [{"from": "Human", "value": "Why?"}, {"from": "GPT", "value": "Because."}]},
            ("sharegpt", [ASK, SAY]),
        ),
        ({"instruction": "Why?", "output": "Because."}, ("alpaca", [ASK, SAY])),
        ({"instruction": "Why?", "input": "", "output": "Because."}, ("alpaca", [ASK, SAY])),
        ({"Instruction": "Why?", "Response": "Because."}, ("alpaca", [ASK, SAY])),
        (
            {"instruction": "Add.", "input": "1 and 2", "output": "3"},
            ("alpaca", [{"role": "user", "content": "Add.\n\n1 and 2"}, {"role": "assistant", "content": "3"}]),
        ),
        (
            {"system": "Be brief.", "instruction": "Really?", "output": "Yes.", "history": [["Why?", "Because."]]},
            ("alpaca", [SYSTEM, ASK, SAY, AGAIN, MORE]),
        ),
        (
            {"instruction": "Really?", "output": "Yes.", "history": [["Why?", None]]},
            ("alpaca", [ASK, {"role": "assistant", "content": ""}, AGAIN, MORE]),
        ),
        ({"prompt": "Why?", "completion": "Because."}, ("prompt_completion", [ASK, SAY])),
        ({"prompt": "Why?", "response": "Because."}, ("prompt_completion", [ASK, SAY])),
        (
            {"system": "Be brief.", "prompt": "Why?", "completion": "Because."},
            ("prompt_completion", [SYSTEM, ASK, SAY]),
        ),
        ({"prompt": [SYSTEM, ASK], "completion": [SAY]}, ("prompt_completion", [SYSTEM, ASK, SAY])),
        ({"question": "Why?", "answer": "Because."}, ("question_answer", [ASK, SAY])),
        ({"problem": "Why?", "solution": "Because."}, ("question_answer", [ASK, SAY])),
        (
            {"context": "It rains.", "question": "Why?", "answer": "Because."},
            ("question_answer", [{"role": "user", "content": "It rains.\n\nWhy?"}, SAY]),
        ),
        ({"text": "Once upon a time"}, ("text", "Once upon a time")),
        ({"content": "Once upon a time", "url": "x"}, ("text", "Once upon a time")),
    ],
)
def test_a_shape_is_found_and_converted(row, expected):
    assert read(row) == expected


def test_tool_roles_of_sharegpt_are_kept_in_their_places():
    turns = [("human", "Why?"), ("function_call", "{}"), ("observation", "rain"), ("gpt", "Because.")]
    _, messages = read({"conversations": [{"from": who, "value": what} for who, what in turns]})
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]


def test_typed_content_is_joined_to_text():
    parts = [{"type": "text", "text": "Be"}, {"type": "text", "text": "cause."}]
    assert read({"messages": [ASK, {"role": "assistant", "content": parts}]}) == ("messages", [ASK, SAY])


def test_numbers_are_read_as_text():
    row = {"question": 7, "answer": 1.5}
    assert [m["content"] for m in read(row)[1]] == ["7", "1.5"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_answer(value):
    assert dropped({"prompt": "q", "completion": value}) == f"completion is {value}, not text"


def test_the_shape_is_found_if_a_turn_is_missing():
    row = {"messages": [None, SAY]}
    assert dropped(row) == "turn 1 is not an object"


def test_the_shape_is_found_if_the_first_row_lacks_it():
    assert detect([{"messages": None}, {"messages": [ASK, SAY]}]).format == "messages"


def test_what_was_found_is_said_with_the_columns():
    assert detect([{"Frage": 1, "question": "Why?", "answer": "x"}]).why.endswith("the columns 'question', 'answer'.")


def test_chosen_columns_are_obeyed():
    row = {"Frage": "Why?", "Antwort": "Because.", "text": "no"}
    columns = {"question": "Frage", "answer": "Antwort"}
    assert read(row, columns=columns) == ("question_answer", [ASK, SAY])


def test_chosen_columns_win_over_usual_names():
    row = {"question": "no", "answer": "no", "Frage": "Why?", "Antwort": "Because."}
    columns = {"question": "Frage", "answer": "Antwort"}
    assert read(row, columns=columns) == ("question_answer", [ASK, SAY])


def test_a_chosen_column_may_go_with_one_that_is_found():
    row = {"question": "Why?", "answer": "no", "best": "Because."}
    assert read(row, "question_answer", {"answer": "best"}) == ("question_answer", [ASK, SAY])


def test_a_chosen_format_is_obeyed():
    row = {"question": "Why?", "answer": "Because.", "text": "Once upon a time"}
    assert read(row, "text") == ("text", "Once upon a time")


def test_a_chosen_column_that_is_not_there_is_refused_with_the_real_names():
    error = refusal([{"Frage": "Why?", "Antwort": "x"}], columns={"question": "frage"})
    assert "'frage'" in error.what
    assert error.fix == "The columns are: Frage, Antwort."
    assert error.field == "data.columns.question"


def test_a_part_that_the_format_does_not_have_is_refused_with_its_parts():
    error = refusal([{"question": "Why?", "answer": "x"}], "question_answer", {"prompt": "question"})
    assert "no part 'prompt'" in error.what
    assert "question, answer" in error.fix


def test_a_part_that_no_format_has_is_refused():
    assert refusal([{"question": "Why?", "answer": "x"}], columns={"promt": "question"}).field == "data.columns"


def test_a_chosen_format_without_its_column_is_refused_with_the_real_names():
    error = refusal([{"Frage": "Why?"}], "prompt_completion")
    assert "prompt, completion" in error.what
    assert "Frage" in error.fix


def test_an_unknown_shape_is_refused_with_the_real_names():
    error = refusal([{"Frage": "Why?", "Antwort": "x"}])
    assert error.code == "unknown_format"
    assert "Frage, Antwort" in error.fix


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASK]}, "no assistant turn"),
        ({"messages": [ASK, {"role": "assistant", "content": "  \n"}]}, "the assistant's answer is empty"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "the assistant's answer is empty"),
        ({"messages": [ASK, {"role": "narrator", "content": "x"}]}, "turn 2 has no known role ('narrator')"),
        ({"messages": [ASK, {"role": None, "content": "x"}]}, "turn 2 has no role"),
        ({"messages": [ASK, {"role": "assistant", "content": {"a": 1}}]}, "turn 2 is a dict, not text"),
        ({"instruction": " ", "output": "x"}, "instruction is empty"),
        ({"instruction": "x", "output": "x", "history": "x"}, "history is not a list of [question, answer] pairs"),
        ({"prompt": "", "completion": "x"}, "prompt is empty"),
        ({"prompt": "x", "completion": ""}, "the assistant's answer is empty"),
        ({"prompt": "x", "completion": "\u200b\u200e \ufeff"}, "the assistant's answer is empty"),
        ({"prompt": "x", "completion": ["a"]}, "completion is a list, not text"),
        ({"question": "\t", "answer": "x"}, "question is empty"),
        ({"text": "  "}, "text is empty"),
        ({"prompt": "half \ud83d of a pair", "completion": "x"}, "prompt holds half a character"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_dropped_with_the_reason(row, reason):
    assert dropped(row) == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "messages is empty"),
        ("text", "messages is not a list of turns"),
        (["text"], "turn 1 is not an object"),
        (None, "messages is missing"),
    ],
)
def test_a_row_without_turns_is_dropped_with_the_reason(value, reason):
    assert dropped({"messages": value}, "messages") == reason


def test_a_row_without_a_column_that_others_have_is_dropped():
    mapping = detect([{"prompt": "Why?", "completion": "Because."}, {"prompt": "Why?"}])
    with pytest.raises(RowRejected, match="completion is missing"):
        convert({"prompt": "Why?"}, mapping)


def test_the_system_prompt_is_put_before_conversations_that_have_none():
    row = {"prompt": "Why?", "completion": "Because."}
    assert read(row, system_prompt="Be brief.")[1] == [SYSTEM, ASK, SAY]


def test_the_system_prompt_leaves_conversations_alone_that_have_their_own():
    row = {"system": "Be brief.", "prompt": "Why?", "completion": "Because."}
    assert read(row, system_prompt="Be long.")[1] == [SYSTEM, ASK, SAY]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "good", "rejected": "bad"},
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
        },
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ],
    ids=["texts", "prompt of turns", "implicit prompt", "sharegpt"],
)
def test_of_a_preference_the_chosen_answer_is_trained_on_and_that_is_said(row):
    mapping = detect([row])
    assert mapping.format == "preference"
    assert "rejected ones are not used" in mapping.why
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}]
    assert convert(row, mapping) == {"messages": turns}


def test_of_answers_with_a_verdict_the_wanted_ones_are_kept():
    rows = [{"prompt": "q", "completion": "a", "label": wanted} for wanted in (True, False)]
    mapping = detect(rows)
    assert mapping.format == "unpaired_preference"
    assert convert(rows[0], mapping)["messages"][-1] == {"role": "assistant", "content": "a"}
    with pytest.raises(RowRejected, match="unwanted"):
        convert(rows[1], mapping)


def test_a_label_that_is_no_verdict_is_not_a_preference():
    assert detect([{"prompt": "q", "completion": "a", "label": "news"}]).format == "prompt_completion"


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}


@pytest.mark.parametrize(
    "call",
    [
        {
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
            ]
        },
        {"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bern"}}}]},
        {"tool_calls": '[{"name": "weather", "arguments": {"city": "Bern"}}]'},
        {"function_call": {"name": "weather", "arguments": '{"city": "Bern"}'}},
    ],
    ids=["openai", "objects", "text", "the old function_call"],
)
def test_tool_calls_are_kept_in_one_form(call):
    row = {"messages": [ASK, {"role": "assistant", "content": None, **call}, {"role": "tool", "content": "rain"}, SAY]}
    made = convert(row, detect([row]))["messages"][1]
    assert made["content"] == ""
    assert [c["function"] for c in made["tool_calls"]] == [CALL["function"]]


def test_a_function_call_of_sharegpt_is_a_tool_call():
    turns = [("human", "Why?"), ("function_call", '{"name": "weather", "arguments": {"city": "Bern"}}'), ("gpt", "So.")]
    _, messages = read({"conversations": [{"from": who, "value": what} for who, what in turns]})
    assert messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_a_call_without_a_name_drops_the_row_with_the_reason():
    row = {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}]}
    assert dropped(row) == "turn 2 has tool_calls without a function's name"


@pytest.mark.parametrize(
    "tools",
    [
        '[{"name": "weather", "description": "d"}]',
        [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": None}}],
        ['{"name": "weather", "description": "d"}'],
    ],
)
def test_tools_are_kept_in_one_form(tools):
    row = {"messages": [ASK, SAY], "tools": tools}
    assert convert(row, detect([row]))["tools"] == [
        {"type": "function", "function": {"name": "weather", "description": "d"}}
    ]


@pytest.mark.parametrize("tools", ["", "[]", None, []])
def test_no_tools_are_none(tools):
    row = {"messages": [ASK, SAY], "tools": tools}
    assert "tools" not in convert(row, detect([row]))


def test_a_column_of_tools_that_a_format_does_not_use_is_said():
    assert "'tools' is not used" in detect([{"instruction": "q", "output": "a", "tools": "[]"}]).why


def test_a_label_is_the_answer_to_its_text():
    row = {"text": "Where is my parcel?", "label": "delivery"}
    kind, messages = read(row)
    assert kind == "classification"
    assert [m["content"] for m in messages] == ["Where is my parcel?", "delivery"]


def test_a_long_text_beside_a_text_is_no_label():
    assert detect([{"text": "Once", "category": "upon a time " * 20}]).format == "text"


def test_token_ids_pass_through_with_their_labels():
    row = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    assert convert(row, detect([row])) == row
    masked = {"input_ids": [5, 6, 7], "completion_mask": [0, 0, 1]}
    assert convert(masked, detect([masked]))["labels"] == [-100, -100, 7]
    assert convert({"input_ids": [5, 6]}, detect([{"input_ids": [5, 6]}]))["labels"] == [5, 6]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": []}, "input_ids is not a list"),
        ({"input_ids": [1, -4]}, "input_ids is not a list"),
        ({"input_ids": [1, 2], "labels": [1]}, "labels are not as many"),
        ({"input_ids": [1, 2], "labels": [2, -100]}, "labels differ from input_ids"),
    ],
)
def test_tokens_that_cannot_be_trained_on_are_left_out_with_the_reason(row, reason):
    assert reason in dropped(row, "tokenized")


def test_reasoning_in_a_field_of_its_own_is_kept():
    for key in ("reasoning_content", "reasoning", "thinking"):
        row = {"messages": [ASK, {**SAY, key: "It is late."}]}
        assert read(row)[1][1]["reasoning_content"] == "It is late."


def test_content_that_is_not_text_drops_the_row():
    picture = {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image"}]}
    assert dropped({"messages": [picture, SAY]}) == "turn 1 holds 'image' content, and only text can be trained on"


def test_a_part_that_is_named_with_nothing_is_left_out():
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    assert read(row, columns={"input": ""})[1][0]["content"] == "Add."


def test_turns_as_json_text_are_read():
    row = {"messages": '[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]'}
    assert read(row, "messages")[1] == [ASK, SAY]


@pytest.mark.parametrize(("yes", "no"), [(True, False), (1, 0), ("True", "False"), ("1", "0")])
def test_a_verdict_may_be_a_number_or_text_and_a_row_without_one_is_left_out(yes, no):
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in (yes, no, None)]
    mapping = detect(rows)
    assert mapping.format == "unpaired_preference"
    assert convert(rows[0], mapping)
    for row in rows[1:]:
        with pytest.raises(RowRejected):
            convert(row, mapping)


@pytest.mark.parametrize("column", ["system", "input", "history", "tools"])
def test_data_16_nan_in_an_optional_column_is_a_missing_value(column):
    row = {"instruction": "Why?", "output": "Because.", column: float("nan")}
    assert read(row) == ("alpaca", [ASK, SAY])


def test_data_16_a_worked_solution_is_trained_instead_of_its_short_answer():
    row = {"problem": "What is 6 times 7?", "solution": "6 times 7 is 42, so the answer is 42.", "answer": "42"}
    mapping = detect([row])
    assert convert(row, mapping)["messages"][1]["content"] == row["solution"]
    assert mapping.unused == ("answer",)
    assert "'answer' is not used" in mapping.why
    chosen = detect([row], chosen={"answer": "answer"})
    assert convert(row, chosen)["messages"][1]["content"] == "42"


def test_data_16_an_answer_that_is_longer_than_the_solution_is_trained():
    row = {"question": "What is 6 times 7?", "answer": "6 times 7 is 42, so the answer is 42.", "solution": "42"}
    mapping = detect([row])
    assert convert(row, mapping)["messages"][1]["content"] == row["answer"]
    assert mapping.unused == ("solution",)
