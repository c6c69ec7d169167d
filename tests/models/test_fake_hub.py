"""The fake Hub is good enough for the real datasets library."""

import json
import os
import subprocess
import sys

import pytest
from fake_hub import FakeHub


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What datasets.load_dataset made of four requests, in a process of its own."""
    folder, home = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("hf")
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "test.jsonl").write_text('{"prompt": "c", "completion": "d"}\n')
    code = """
import json, sys, datasets
answers = {}
for name, split in (("me/data", "train"), ("me/data", "test"), ("me/none", "train"), ("me/gated", "train")):
    try:
        answers[f"{name} {split}"] = list(datasets.load_dataset(name, split=split))
    except datasets.exceptions.DatasetNotFoundError as error:
        answers[f"{name} {split}"] = str(error)
answers["streamed"] = list(datasets.load_dataset("me/data", split="train", streaming=True))
print(json.dumps(answers))
"""
    with FakeHub(datasets={"me/data": folder, "me/gated": folder}, gated=["me/gated"]) as hub:
        environment = os.environ | hub.environment(home)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_split_has_its_rows(answers):
    assert answers["me/data train"] == [{"prompt": "a", "completion": "b"}]
    assert answers["me/data test"] == [{"prompt": "c", "completion": "d"}]


def test_rows_can_be_streamed(answers):
    assert answers["streamed"] == [{"prompt": "a", "completion": "b"}]


def test_a_wrong_id_does_not_exist(answers):
    assert "doesn't exist" in answers["me/none train"]


def test_a_gated_dataset_asks_for_a_login(answers):
    assert "gated" in answers["me/gated train"]
