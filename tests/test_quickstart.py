"""The quickstart on the real built-in model: it learns its task, and the same seed gives the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent


def studio(home: Path, *arguments: str, seconds: int = 1500) -> str:
    output = subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "STUDIO_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert output.returncode == 0, output.stderr[-3000:]
    return output.stdout


def losses(home: Path, run_id: str) -> list[float]:
    lines = (home / "runs" / run_id / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["kind"] == "step"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def tuned(home):
    """The id of a finished quickstart run; the model comes from where a new user gets it."""
    return studio(home, "train", "recipes/quickstart.yaml").splitlines()[-1]


def test_exact_match_goes_from_nothing_to_four_in_five_and_more(home, tuned):
    scores = json.loads(studio(home, "evaluate", tuned, "--json"))
    assert scores["rows"] == 60
    assert scores["base"]["exact_match"] <= 0.05
    assert scores["tuned"]["exact_match"] >= 0.8  # below every seed and machine that was measured
    assert scores["tuned"]["loss"] < scores["base"]["loss"] / 10


def test_the_same_seed_gives_the_same_losses(home, tuned):
    again = studio(
        home, "train", "recipes/quickstart.yaml", "train.eval_steps=0", "train.save_steps=0", "train.logging_steps=1"
    ).splitlines()[-1]
    first, second = losses(home, tuned), losses(home, again)
    assert len(first) > 20
    assert second == first


def test_base_and_tuned_answer_side_by_side(home, tuned):
    prompt = "My router is broken, please repair it. No rush."
    answers = json.loads(studio(home, "compare", "base", tuned, "--prompt", prompt, "--json"))
    assert [a["model"] for a in answers[prompt]] == ["base", tuned]
    assert all(a["new_tokens"] > 0 for a in answers[prompt])
