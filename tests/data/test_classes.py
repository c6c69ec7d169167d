"""Texts with their classes: how rows are read, which classes there are, and what the encoder makes of them."""

import json

import pytest
from tiny import make_tiny_bert, make_tiny_chat_model, make_tiny_gpt2

from studio.data import classes_of, encode_row, encode_rows, find_classes, load_conversations, read_conversations
from studio.data.classes import Classes
from studio.data.row_reader import class_name
from studio.errors import StudioError
from studio.models.classification import prepare
from studio.models.load import load_tokenizer
from studio.recipe import DataSpec, Recipe


@pytest.fixture
def source(home, tmp_path):
    def make(rows, **settings) -> DataSpec:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DataSpec(source=str(path), holdout=0, **settings)

    return make


def labels(data: DataSpec) -> list:
    return load_conversations(data, task="seq_cls")["label"][:]


def tokenizer_of(folder):
    tokenizer = load_tokenizer(folder)
    prepare(tokenizer, None, Recipe.parse({"model": {"task": "seq_cls"}}))
    return tokenizer


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tokenizer_of(make_tiny_bert(tmp_path_factory.mktemp("models") / "bert"))


def test_a_row_is_a_text_and_its_class(source):
    data = source([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    rows = list(load_conversations(data, task="seq_cls"))
    assert [(row["text"], row["label"], row["messages"]) for row in rows] == [("a", "x", None), ("b", "y", None)]


def test_the_same_rows_are_a_conversation_where_text_is_written(source):
    data = source([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    row = load_conversations(data)[0]
    assert [m["content"] for m in row["messages"]] == ["a", "x"]
    assert row["label"] is None


@pytest.mark.parametrize("given", [(3, 10, 9), (3.0, 10.0, 9.0), ("3", "10", "9")])
def test_classes_that_are_numbers_stand_in_the_order_of_numbers(source, given):
    data = source([{"text": f"text {value}", "label": value} for value in given])
    assert classes_of(data, seed=0).names == ("3", "9", "10")


def test_a_list_of_labels_is_several_classes_and_a_string_of_several_is_one(source):
    data = source([{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}, {"text": "c", "labels": ["y"]}])
    classes = classes_of(data, seed=0)
    assert (classes.names, classes.multi_label, classes.rows) == (("x", "y"), True, (1, 2))
    data = source([{"text": "a", "label": "x, y"}, {"text": "b", "label": "y"}])
    assert classes_of(data, seed=0).names == ("x, y", "y")


def test_the_classes_do_not_depend_on_the_order_of_the_rows():
    one, other = find_classes(["b", "a", "b", "c"]), find_classes(["c", "b", "b", "a"])
    assert one == other == Classes(("a", "b", "c"), False, ("b",), (1, 2, 1))


def test_the_classes_are_those_of_the_training_rows(source, tmp_path):
    second = tmp_path / "second.jsonl"
    second.write_text('{"text": "new", "label": "z"}\n')
    data = source([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], holdout_source=str(second))
    assert classes_of(data, seed=0).names == ("x", "y")


def test_columns_of_another_shape_can_be_named(source):
    columns = {"text": "question", "label": "answer"}
    data = source([{"question": "q", "answer": "yes"}, {"question": "r", "answer": "no"}], columns=columns)
    assert labels(data) == ["yes", "no"]
    assert labels(data.model_copy(update={"format": "classification"})) == ["yes", "no"]


def test_names_of_classes_are_put_in_place_of_numbers_in_lists_too():
    assert class_name(1, ["sad", "glad"]) == "glad"
    assert class_name([1, 0], ["sad", "glad"]) == ["glad", "sad"]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
)
def test_conversations_are_refused_with_the_columns_that_there_are(source, row):
    with pytest.raises(StudioError, match="These rows are conversations") as caught:
        labels(source([row]))
    assert next(iter(row)) in caught.value.fix and "model.task to causal_lm" in caught.value.fix


def test_rows_without_a_label_column_are_refused(source):
    with pytest.raises(StudioError, match="no column was found for label") as caught:
        labels(source([{"text": "a", "length": 1}]))
    assert "The columns are: text, length." in caught.value.fix


def test_a_format_that_is_no_classification_is_refused(source):
    with pytest.raises(StudioError, match=r"data\.format is alpaca"):
        labels(source([{"text": "a", "label": "x"}], format="alpaca"))


def test_a_label_that_is_an_object_is_refused(source):
    with pytest.raises(StudioError, match="'label' holds no classes"):
        labels(source([{"text": "a", "label": {"x": 1}}]))


@pytest.mark.parametrize("row", [{"text": "c"}, {"text": "c", "label": None}, {"text": "c", "label": " "}])
def test_a_row_without_a_label_is_left_out_and_says_why(source, row):
    data = source([{"text": "a", "label": "x"}, row, {"text": "b", "label": "y"}])
    read = list(read_conversations(data, task="seq_cls").conversations)
    assert [bool(row.dropped) for row in read] == [False, True, False]
    assert read[1].dropped in ("label is missing", "label is empty")


def test_one_class_is_refused(source):
    with pytest.raises(StudioError, match=r"only one class \('x'\)"):
        classes_of(source([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]), seed=0)


def test_a_text_has_the_tokens_that_the_tokenizer_itself_makes(bert):
    classes, text = Classes(("x", "y")), "The quick brown fox, and more."
    encoded = encode_row(bert, {"text": text, "label": "y"}, DataSpec(), classes)
    assert encoded.input_ids == bert(text)["input_ids"]
    assert (encoded.label, set(encoded.labels)) == (1, {-100})
    assert encoded.text == f"[CLS]{text}[SEP]"


def test_a_long_text_is_cut_as_the_tokenizer_itself_cuts_it(bert):
    text = "My order number has not arrived; please tell me where it is. " * 3
    encoded = encode_row(bert, {"text": text, "label": "x"}, DataSpec(max_length=16), Classes(("x", "y")))
    assert encoded.input_ids == bert(text, truncation=True, max_length=16)["input_ids"]
    assert encoded.cut == len(bert(text)["input_ids"]) - 16
    assert encoded.text.replace("[CLS]", "").replace("[SEP]", "") == text
    assert len(encoded.offsets) == len(encoded.labels) == 16


def test_a_decoder_reads_the_text_and_its_end_token(tmp_path):
    for folder in (make_tiny_chat_model(tmp_path / "llama"), make_tiny_gpt2(tmp_path / "gpt2")):
        tokenizer = tokenizer_of(folder)
        encoded = encode_row(tokenizer, {"text": "The dog", "label": "x"}, DataSpec(), Classes(("x", "y")))
        assert encoded.input_ids == [*tokenizer("The dog")["input_ids"], tokenizer.eos_token_id]
        assert tokenizer.pad_token_id is not None and tokenizer.padding_side == "right"


def test_several_classes_are_their_numbers_in_ascending_order(bert):
    classes = Classes(("x", "y", "z"), multi_label=True)
    rows = [{"text": "a", "label": given} for given in (["z", "x"], [], ["y"])]
    kept, _ = encode_rows(bert, rows, DataSpec(), classes=classes)
    assert [example.label for example in kept] == [[0, 2], [], [1]]


def test_a_class_that_no_training_row_has_is_left_out_and_named(bert):
    rows = [{"text": "a", "label": "x", "row": 1}, {"text": "b", "label": "new", "row": 2}]
    kept, dropped = encode_rows(bert, rows, DataSpec(), classes=Classes(("x", "y")))
    assert len(kept) == 1
    assert dropped == {"no training row has its class 'new'": [2]}
