"""Datasets to conversations: kept by identity, split by content, and refused with what stands in the way."""

import json
import os
from itertools import islice

import pytest

from studio.data import load_conversations, load_evaluation, read_conversations, split_conversations
from studio.data.load import fingerprint
from studio.data.sources import builtin_names, splits
from studio.errors import StudioError
from studio.recipe import DataSpec

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def write(tmp_path):
    def write_rows(rows: list, name: str = "rows.jsonl") -> DataSpec:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DataSpec(source=str(path))

    return write_rows


def pairs(numbers) -> list[dict]:
    return [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in numbers]


def split(data: DataSpec, holdout: float, seed: int):
    data = data.model_copy(update={"holdout": holdout})
    return split_conversations(load_conversations(data), data, seed)


def answers(dataset) -> list[str]:
    return [row["messages"][-1]["content"] for row in dataset]


def refusal(data: DataSpec, function=load_conversations) -> StudioError:
    with pytest.raises(StudioError) as caught:
        function(data)
    return caught.value


def test_a_file_is_loaded_as_messages_with_the_numbers_of_its_lines(write):
    dataset = load_conversations(write(pairs(range(3))))
    assert dataset["row"][:] == [1, 2, 3]
    turns = [{"role": "user", "content": "question 0"}, {"role": "assistant", "content": "answer 0"}]
    assert dataset[0]["messages"] == turns
    assert dataset[0]["text"] is None


def test_plain_text_is_loaded_as_text(write):
    dataset = load_conversations(write([{"text": "Once"}]))
    assert dataset[0]["text"] == "Once"
    assert dataset[0]["messages"] is None


def test_preview_and_training_read_the_same_conversations(write):
    data = write([*pairs(range(4)), {"prompt": "", "completion": "x"}])
    previewed = [c.messages for c in read_conversations(data).conversations if not c.dropped]
    assert previewed == load_conversations(data)["messages"][:]


def test_dropped_rows_are_left_out_and_counted_by_reason(write):
    data = write([*pairs(range(2)), {"prompt": "only"}, {"prompt": "", "completion": "x"}, {"prompt": "x"}])
    assert load_conversations(data)["row"][:] == [1, 2]
    reading = read_conversations(data)
    assert [c.row for c in reading.conversations if c.dropped] == [3, 4, 5]
    assert reading.dropped == {"completion is missing": 2, "prompt is empty": 1}


def test_a_dataset_without_a_usable_row_is_refused_with_reason_count_and_first_row(write):
    error = refusal(write([{"messages": [{"role": "user", "content": "Hi"}]}] * 3))
    assert "3 x no assistant turn (first in row 1)" in error.what
    assert "OpenAI messages" in error.fix


def test_a_line_broken_after_the_sample_is_refused_by_its_number(write, tmp_path):
    data = write(pairs(range(40)))
    path = tmp_path / "rows.jsonl"
    lines = path.read_text().splitlines()
    lines[36] = lines[36][:-1]
    path.write_text("\n".join(lines))
    assert "rows.jsonl, line 37" in refusal(data).what


def test_half_a_character_in_one_row_does_not_stop_the_others(write):
    assert answers(load_conversations(write([*pairs([1]), {"prompt": "\ud83d", "completion": "x"}]))) == ["answer 1"]


def test_max_rows_takes_the_first_rows(write):
    data = write(pairs(range(9))).model_copy(update={"max_rows": 3})
    assert load_conversations(data)["row"][:] == [1, 2, 3]


def test_a_preview_reads_no_further_than_it_is_asked_to(write, monkeypatch):
    data = write([*pairs(range(30))])
    with open(data.source, "a") as file:
        file.write("broken\n")
    assert len(list(islice(read_conversations(data).conversations, 20))) == 20


def test_a_dataset_is_converted_once_as_long_as_its_file_stays(write, monkeypatch):
    data = write(pairs(range(3)))
    first = load_conversations(data)
    monkeypatch.setattr("studio.data.conversations.read_conversations", None)
    assert load_conversations(data)["messages"][:] == first["messages"][:]


def test_a_changed_file_changes_the_result(write):
    data = write(pairs(range(3)))
    assert len(load_conversations(data)) == 3
    write(pairs(range(5)))
    assert len(load_conversations(data)) == 5


def test_a_file_changed_within_the_same_length_changes_the_result(write):
    data = write(pairs([1]))
    assert answers(load_conversations(data)) == ["answer 1"]
    write(pairs([2]))
    os.utime(data.source, ns=(1, 1))
    assert answers(load_conversations(data)) == ["answer 2"]


def test_settings_that_do_not_change_the_conversations_do_not_convert_them_again(write, monkeypatch):
    data = write(pairs(range(3)))
    load_conversations(data)
    monkeypatch.setattr("studio.data.conversations.read_conversations", None)
    other = {"max_length": 64, "holdout": 0.3, "train_on": "last", "chat_template": "chatml"}
    assert len(load_conversations(data.model_copy(update=other))) == 3


def test_the_system_prompt_changes_the_conversations(write):
    data = write(pairs(range(3)))
    load_conversations(data)
    briefed = load_conversations(data.model_copy(update={"system_prompt": "Be brief."}))
    assert briefed[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_the_fingerprint_depends_on_content_and_order(write):
    marks = [fingerprint(load_conversations(write(pairs(order)))) for order in ([1, 2, 3], [1, 3, 2], [1, 2, 4])]
    assert len(set(marks)) == 3
    assert fingerprint(load_conversations(write(pairs([1, 2, 3]), "again.jsonl"))) == marks[0]


def test_an_unknown_builtin_is_refused_with_the_ones_there_are():
    error = refusal(DataSpec(source="builtin/nothing"))
    assert "builtin/nothing" in error.what
    assert "builtin/support-triage" in error.fix


def test_an_unknown_split_of_a_builtin_is_refused_with_the_ones_there_are():
    error = refusal(DataSpec(source="builtin/support-triage", split="validation"))
    assert "test, train" in error.fix


@pytest.mark.parametrize("source", ["nothing.jsonl", "/no/such/file.csv", "./nothing", "a/b/c", "../x"])
def test_a_source_that_is_neither_a_file_nor_a_hub_id_is_refused(source):
    assert "There is no file or Hub dataset" in refusal(DataSpec(source=source)).what


@pytest.mark.parametrize("function", [load_conversations, read_conversations])
def test_a_hub_dataset_is_refused_if_the_hub_is_switched_off(function):
    error = refusal(DataSpec(source="owner/name"), function)
    assert "does not answer" in error.what
    assert error.field == "data.source"


@pytest.mark.parametrize("function", [load_conversations, read_conversations])
def test_a_folder_without_a_file_of_rows_is_refused(tmp_path, function):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "README.md").write_text("about the data")
    assert "holds no file that the studio reads" in refusal(DataSpec(source=str(tmp_path)), function).what


def test_a_folder_is_all_its_files_and_a_changed_file_is_read_anew(tmp_path):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl").write_text('{"prompt": "q1", "completion": "a1"}\n')
    (folder / "sub" / "b.csv").write_text("prompt,completion\nq2,a2\n")
    data = DataSpec(source=str(folder))
    assert [row["messages"][1]["content"] for row in load_conversations(data)] == ["a1", "a2"]
    (folder / "sub" / "b.csv").write_text("prompt,completion\nq2,other\n")
    assert [row["messages"][1]["content"] for row in load_conversations(data)] == ["a1", "other"]


@pytest.mark.parametrize("name", builtin_names())
def test_every_builtin_dataset_is_read_whole(name):
    data = DataSpec(source=name)
    for split in splits(data):
        assert not any(c.dropped for c in read_conversations(data, split).conversations)


def test_the_held_out_share_is_about_what_is_asked(write):
    train, held_out = split(write(pairs(range(1000))), 0.1, seed=0)
    assert len(train) + len(held_out) == 1000
    assert 60 <= len(held_out) <= 140


def test_added_rows_move_no_row_to_the_other_side(write):
    before = split(write(pairs(range(200))), 0.2, seed=3)
    after = split(write(pairs([*range(500, 600), *range(200)])), 0.2, seed=3)
    for old, new in zip(before, after, strict=True):
        assert set(answers(old)) <= set(answers(new))


def test_equal_rows_are_on_the_same_side(write):
    sides = split(write(pairs(range(30)) * 3), 0.3, seed=0)
    assert not set(answers(sides[0])) & set(answers(sides[1]))


@pytest.mark.parametrize("holdout", [0.001, 0.5])
@pytest.mark.parametrize("seed", range(8))
def test_two_different_rows_are_one_to_train_on_and_one_held_out(write, holdout, seed):
    train, held_out = split(write(pairs(range(2))), holdout, seed)
    assert len(train) == len(held_out) == 1


def test_rows_that_are_all_equal_are_all_trained_on(write):
    train, held_out = split(write(pairs([1]) * 5), 0.5, seed=0)
    assert len(train) == 5
    assert held_out is None


def test_no_holdout_trains_on_every_row(write):
    train, held_out = split(write(pairs(range(5))), 0, seed=0)
    assert len(train) == 5
    assert held_out is None


def test_another_seed_holds_other_rows_out(write):
    dataset = load_conversations(write(pairs(range(100))))
    held_out = [answers(split_conversations(dataset, DataSpec(holdout=0.2), seed)[1]) for seed in range(2)]
    assert held_out[0] != held_out[1]


def test_the_builtin_dataset_is_evaluated_on_its_test_split():
    assert len(load_evaluation(DataSpec(), seed=0)) == 60


def test_a_file_is_evaluated_on_the_rows_held_out_from_its_training(write):
    data = write(pairs(range(100))).model_copy(update={"holdout": 0.2})
    held_out = split_conversations(load_conversations(data), data, seed=5)[1]
    assert answers(load_evaluation(data, seed=5)) == answers(held_out)


def test_an_evaluation_without_held_out_rows_is_refused(write):
    error = refusal(write(pairs(range(9))).model_copy(update={"holdout": 0}), lambda data: load_evaluation(data, 0))
    assert error.field == "data.holdout"


def test_the_split_to_evaluate_on_is_obeyed():
    assert len(load_evaluation(DataSpec(eval_split="train"), seed=0)) == 300
