"""Datasets on the Hub, against a local stand-in of its API: found, refused plainly, and never waited for long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from fake_hub import FakeHub

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = """
import json, os, sys
from studio.data import load_conversations
from studio.errors import StudioError
from studio.recipe import DataSpec
for line in sys.stdin:
    request = json.loads(line)
    os.environ["STUDIO_HOME"] = request["home"]
    try:
        rows = load_conversations(DataSpec(**request["data"]))
        answer = [row["messages"][-1]["content"] for row in rows]
    except StudioError as error:
        answer = {"what": error.what, "fix": error.fix, "field": error.field}
    print(json.dumps(answer), flush=True)
"""


class Reader:
    """A process that answers what ``load_conversations`` gives; the Hub's address is read at import."""

    def __init__(self, hub: FakeHub, folder: Path):
        environment = {**os.environ, **hub.environment(folder)}
        environment.pop("HF_HUB_OFFLINE", None)
        self.log = (folder / "reader.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def load(self, home: Path, **data):
        print(json.dumps({"home": str(home), "data": data}), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith(("[", "{")):  # libraries print, too
                return json.loads(line)
        self.log.seek(0)
        raise AssertionError(self.log.read()[-2000:])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    for split, count in (("train", 5), ("test", 2)):
        rows = [{"prompt": f"{split} question {n}", "completion": f"{split} answer {n}"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hub(dataset, tmp_path_factory):
    with FakeHub({}, {"owner/set": dataset, "owner/gated": dataset}, gated={"owner/gated"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def reader(hub, tmp_path_factory):
    reader = Reader(hub, tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


@pytest.fixture
def load(reader, tmp_path):
    """``load_conversations`` with a workspace of this test's own."""
    return partial(reader.load, tmp_path)


def test_a_hub_dataset_is_read_by_split(load):
    assert load(source="owner/set") == [f"train answer {n}" for n in range(5)]
    assert load(source="owner/set", split="test") == ["test answer 0", "test answer 1"]


def test_max_rows_takes_only_the_first(load):
    assert load(source="owner/set", max_rows=2) == ["train answer 0", "train answer 1"]


def test_a_wrong_id_says_so(load):
    refusal = load(source="owner/typo")
    assert "owner/typo" in refusal["what"]
    assert refusal["field"] == "data.source"


def test_a_gated_dataset_names_the_way_in(load):
    assert "HF_TOKEN" in load(source="owner/gated")["fix"]


def test_a_missing_split_names_those_there_are(load):
    refusal = load(source="owner/set", split="nope")
    assert refusal["field"] == "data.split"
    assert "train" in refusal["fix"]


def test_a_silent_hub_costs_three_seconds_and_what_was_read_before_still_loads(hub, load, tmp_path):
    first = load(source="owner/set")
    assert len(first) == 5
    hub.hang = True
    later = Reader(hub, tmp_path)
    try:
        assert later.load(tmp_path, source="owner/set") == first
        start = time.monotonic()
        refusal = later.load(tmp_path, source="owner/other")
        assert "does not answer" in refusal["what"]
        assert time.monotonic() - start < 10  # one probe
    finally:
        later.close()
        hub.hang = False


def test_a_window_of_a_hub_dataset_is_read(load):
    assert load(source="owner/set", skip_rows=1, max_rows=2) == ["train answer 1", "train answer 2"]


def test_a_hub_dataset_that_is_downloaded_whole_is_the_same(load):
    assert load(source="owner/set", streaming=False, max_rows=3) == [f"train answer {n}" for n in range(3)]


def test_a_folder_of_a_hub_dataset_is_read_alone(hub, load, tmp_path):
    folder = tmp_path / "code"
    for language in ("python", "rust"):
        (folder / "data" / language).mkdir(parents=True)
        row = {"prompt": language, "completion": f"{language} code"}
        (folder / "data" / language / "data.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    hub.repositories["datasets"]["owner/code"] = folder
    assert load(source="owner/code", data_dir="data/rust") == ["rust code"]


def test_labels_of_a_hub_dataset_are_read_by_their_names(hub, load, tmp_path):
    import datasets

    folder = tmp_path / "labels"
    folder.mkdir()
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [1, 0]}, features=features)
    rows.to_parquet(folder / "train.parquet")
    hub.repositories["datasets"]["owner/labels"] = folder
    assert load(source="owner/labels") == ["good", "bad"]


def test_a_mixture_of_a_hub_dataset_and_another_is_read(load):
    mix = [{"source": "owner/set", "split": "test", "weight": 2}]
    rows = load(source="owner/set", max_rows=1, mix=mix)
    assert rows == ["train answer 0", *["test answer 0"] * 2, *["test answer 1"] * 2]
