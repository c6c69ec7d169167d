"""Datasets on the Hub, against a local stand-in of its API: found, refused plainly, and never waited for long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_hub import FakeHub

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = """
import json, sys
from studio.data import load_conversations
from studio.errors import StudioError
from studio.recipe import DataSpec
try:
    rows = load_conversations(DataSpec(**json.loads(sys.argv[1])))
    print(json.dumps([row["messages"][-1]["content"] for row in rows]))
except StudioError as error:
    print(json.dumps({"what": error.what, "fix": error.fix, "field": error.field}))
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    for split, count in (("train", 5), ("test", 2)):
        rows = [{"prompt": f"{split} question {n}", "completion": f"{split} answer {n}"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return folder


def load(hub, home, **data):
    """What ``load_conversations`` gives in a process of its own (the Hub's address is read at import)."""
    environment = {**os.environ, **hub.environment(home), "STUDIO_HOME": str(home)}
    environment.pop("HF_HUB_OFFLINE", None)
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(data)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert output.returncode == 0, output.stderr[-2000:]
    return json.loads(output.stdout.splitlines()[-1])


def test_a_hub_dataset_is_read_by_split(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        assert load(hub, tmp_path, source="owner/set") == [f"train answer {n}" for n in range(5)]
        assert load(hub, tmp_path, source="owner/set", split="test") == ["test answer 0", "test answer 1"]


def test_max_rows_takes_only_the_first(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        assert load(hub, tmp_path, source="owner/set", max_rows=2) == ["train answer 0", "train answer 1"]


def test_a_wrong_id_says_so(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        refusal = load(hub, tmp_path, source="owner/typo")
    assert "owner/typo" in refusal["what"]
    assert refusal["field"] == "data.source"


def test_a_gated_dataset_names_the_way_in(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}, gated={"owner/set"}) as hub:
        refusal = load(hub, tmp_path, source="owner/set")
    assert "HF_TOKEN" in refusal["fix"]


def test_a_missing_split_names_those_there_are(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        refusal = load(hub, tmp_path, source="owner/set", split="nope")
    assert refusal["field"] == "data.split"
    assert "train" in refusal["fix"]


def test_a_silent_hub_costs_three_seconds_and_what_was_read_before_still_loads(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        first = load(hub, tmp_path, source="owner/set")
    with FakeHub({}, {}, hang=True) as silent:
        assert load(silent, tmp_path, source="owner/set") == first
        start = time.monotonic()
        refusal = load(silent, tmp_path, source="owner/other")
        assert "does not answer" in refusal["what"]
        assert time.monotonic() - start < 30  # the imports of the process and one probe


def test_a_window_of_a_hub_dataset_is_read(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        rows = load(hub, tmp_path, source="owner/set", skip_rows=1, max_rows=2)
        assert rows == ["train answer 1", "train answer 2"]


def test_a_hub_dataset_that_is_downloaded_whole_is_the_same(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        assert load(hub, tmp_path, source="owner/set", streaming=False, max_rows=3) == [
            f"train answer {n}" for n in range(3)
        ]


def test_a_folder_of_a_hub_dataset_is_read_alone(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("code")
    for language in ("python", "rust"):
        (folder / "data" / language).mkdir(parents=True)
        row = {"prompt": language, "completion": f"{language} code"}
        (folder / "data" / language / "data.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with FakeHub({}, {"owner/code": folder}) as hub:
        assert load(hub, tmp_path, source="owner/code", data_dir="data/rust") == ["rust code"]


def test_labels_of_a_hub_dataset_are_read_by_their_names(tmp_path_factory, tmp_path):
    import datasets

    folder = tmp_path_factory.mktemp("labels")
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [1, 0]}, features=features)
    rows.to_parquet(folder / "train.parquet")
    with FakeHub({}, {"owner/labels": folder}) as hub:
        assert load(hub, tmp_path, source="owner/labels") == ["good", "bad"]


def test_a_mixture_of_a_hub_dataset_and_another_is_read(dataset, tmp_path):
    with FakeHub({}, {"owner/set": dataset}) as hub:
        mix = [{"source": "owner/set", "split": "test", "weight": 2}]
        rows = load(hub, tmp_path, source="owner/set", max_rows=1, mix=mix)
        assert rows == ["train answer 0", *["test answer 0"] * 2, *["test answer 1"] * 2]
