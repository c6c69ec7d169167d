"""Which files of a folder belong to which split, which are read, and what is reported about the others."""

import json
import shutil

import datasets
import pytest

from studio.data import load_conversations, load_evaluation, read_conversations
from studio.data.files import files_of, splits_of, taken
from studio.data.sources import identity, splits
from studio.errors import StudioError
from studio.recipe import DataSpec


def folder_of(tmp_path, *names: str):
    """A folder with these files; each has one row for each character of its name."""
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"{name} {i}", "completion": f"answer {name} {i}"} for i in range(len(name))]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def names_of(folder) -> dict[str, list[str]]:
    return {split: [str(path.relative_to(folder)) for path in files] for split, files in splits_of(folder).items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/a.jsonl", "test/a.jsonl"], {"train": ["train/a.jsonl"], "test": ["test/a.jsonl"]}),
        (["data.jsonl", "test.jsonl"], {"train": ["data.jsonl"], "test": ["test.jsonl"]}),
        (["x_train.jsonl", "x_eval.jsonl"], {"train": ["x_train.jsonl"], "test": ["x_eval.jsonl"]}),
        (["train.jsonl", "heldout.jsonl"], {"train": ["train.jsonl"], "validation": ["heldout.jsonl"]}),
        (["train.jsonl", "held_out.jsonl"], {"train": ["train.jsonl"], "validation": ["held_out.jsonl"]}),
        (["a.jsonl", "val.jsonl"], {"train": ["a.jsonl"], "validation": ["val.jsonl"]}),
        (["a.jsonl", "dev/b.jsonl"], {"train": ["a.jsonl"], "validation": ["dev/b.jsonl"]}),
        (["a.jsonl", "Validation/b.jsonl"], {"train": ["a.jsonl"], "validation": ["Validation/b.jsonl"]}),
        (["trainSet.jsonl", "testSet.jsonl"], {"train": ["trainSet.jsonl"], "test": ["testSet.jsonl"]}),
        (
            ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001-4c1d.jsonl"],
            {
                "train": ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"],
                "test": ["test-00000-of-00001-4c1d.jsonl"],
            },
        ),
        (["en/train.jsonl", "de/train.jsonl"], {"train": ["de/train.jsonl", "en/train.jsonl"]}),
        (["latest.jsonl", "contest.jsonl"], {"train": ["contest.jsonl", "latest.jsonl"]}),
        (["train_and_test.jsonl", "more.jsonl"], {"train": ["more.jsonl", "train_and_test.jsonl"]}),
    ],
)
def test_data_03_split_names_of_files_and_folders_are_recognised(tmp_path, names, expected):
    assert names_of(folder_of(tmp_path, *names)) == expected


def test_data_03_only_the_chosen_split_is_read_and_the_files_of_both_are_reported(tmp_path):
    folder = folder_of(tmp_path, "train/a.jsonl", "test/bb.jsonl")
    reading = read_conversations(DataSpec(source=str(folder)))
    assert len(list(reading.conversations)) == len("train/a.jsonl")
    assert reading.splits() == [
        {
            "source": folder.name,
            "split": "train",
            "files": ("train/a.jsonl",),
            "left_out": {"test": ("test/bb.jsonl",)},
        }
    ]
    assert len(reading.notes()) == 1
    other = read_conversations(DataSpec(source=str(folder), split="test"))
    assert next(c.messages[0]["content"] for c in other.conversations) == "test/bb.jsonl 0"
    assert other.splits()[0]["left_out"] == {"train": ("train/a.jsonl",)}


def test_data_03_the_training_rows_and_the_evaluated_rows_come_from_their_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    data = DataSpec(source=str(folder_of(tmp_path / "ds", "x_train.jsonl", "x_eval.jsonl")))
    assert splits(data) == ["train", "test"]
    assert len(load_conversations(data)) == len("x_train.jsonl")
    assert len(load_evaluation(data, seed=0)) == len("x_eval.jsonl")


@pytest.mark.parametrize("name", ["test.jsonl", "test/a.jsonl", "validation.jsonl"])
def test_data_03_a_folder_of_one_split_is_read_whole_whatever_the_split_is_called(tmp_path, name):
    folder = folder_of(tmp_path, name)
    assert names_of(folder) == {"train": [name]}
    assert files_of(folder, name.split("/")[0].split(".")[0]) == [folder / name]
    assert taken(folder).left_out == {}


def test_data_03_a_folder_without_a_training_split_names_its_splits(tmp_path):
    with pytest.raises(StudioError) as caught:
        files_of(folder_of(tmp_path, "test.jsonl", "dev.jsonl"))
    assert (caught.value.code, caught.value.field) == ("no_such_split", "data.split")
    assert "validation" in caught.value.fix
    assert "test" in caught.value.fix


def test_data_03_a_file_of_another_split_that_comes_into_the_folder_changes_its_identity(tmp_path):
    data = DataSpec(source=str(folder_of(tmp_path, "a.jsonl")))
    before = identity(data)
    folder_of(tmp_path, "test.jsonl")
    assert identity(data) != before


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that ``DatasetDict.save_to_disk`` has written, with three and two rows."""
    folder = tmp_path_factory.mktemp("saved")
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(5)]
    train, test = datasets.Dataset.from_list(rows[:3]), datasets.Dataset.from_list(rows[3:])
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train_sft": train, "test_sft": test}).save_to_disk(str(folder / "named"))
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(folder / "dict"))
    train.save_to_disk(str(folder / "one"))
    if bars:
        datasets.enable_progress_bars()
    return folder


def questions(**data) -> list[str]:
    return [c.messages[0]["content"] for c in read_conversations(DataSpec(**data)).conversations]


def test_data_15_a_saved_dataset_dict_is_opened_at_the_chosen_split(saved):
    assert questions(source=str(saved / "dict")) == ["question 0", "question 1", "question 2"]
    assert questions(source=str(saved / "dict"), split="test") == ["question 3", "question 4"]
    assert splits(DataSpec(source=str(saved / "dict"))) == ["train", "test"]


def test_data_15_a_saved_dataset_dict_has_its_own_names_of_splits(saved):
    assert questions(source=str(saved / "named"), split="test_sft") == ["question 3", "question 4"]
    with pytest.raises(StudioError) as caught:
        questions(source=str(saved / "named"))
    assert caught.value.code == "no_such_split"
    assert "train_sft, test_sft" in caught.value.fix


@pytest.mark.parametrize("name", ["train_sft", "validation"])
def test_data_15_the_only_split_of_a_saved_dataset_dict_is_read_whatever_its_name(tmp_path, saved, name):
    shutil.copytree(saved / "dict" / "test", tmp_path / name)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": [name]}), encoding="utf-8")
    assert questions(source=str(tmp_path)) == ["question 3", "question 4"]
    assert questions(source=str(tmp_path), split=name) == ["question 3", "question 4"]
    assert taken(tmp_path).split == name
    with pytest.raises(StudioError) as caught:
        questions(source=str(tmp_path), split="other")
    assert caught.value.code == "no_such_split"


def test_data_15_a_saved_dataset_is_opened_without_what_was_cached_beside_it(saved):
    table = next((saved / "one").glob("data-*.arrow"))
    (saved / "one" / "cache-0123456789abcdef.arrow").write_bytes(table.read_bytes())
    assert questions(source=str(saved / "one")) == ["question 0", "question 1", "question 2"]
