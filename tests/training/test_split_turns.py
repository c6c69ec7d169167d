"""One example per reply, from the training to the evaluation."""

import json

import pytest
from lessons import done, lesson

from studio.data import encode_once, load_conversations, split_conversations
from studio.evaluation.scoring import evaluate
from studio.inference import Engine
from studio.training.check import check, prepared_tokenizer

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def recipe(tiny_model, tmp_path):
    """A recipe over twelve conversations of two replies, each an example of its own."""
    path = tmp_path / "talks.jsonl"
    with path.open("w") as file:
        for number in range(12):
            turns = [("user", f"ask {number}"), ("assistant", "red"), ("user", "more"), ("assistant", f"blue {number}")]
            file.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n")
    made = lesson(tiny_model, path, sample_count=2, sample_tokens=4)
    return made.model_copy(update={"data": made.data.model_copy(update={"split_turns": True, "max_length": 128})})


def test_data_06_a_run_trains_and_scores_one_example_of_each_reply(recipe):
    run = done(recipe)
    tokenizer, _ = prepared_tokenizer(recipe)
    training, held_out = split_conversations(load_conversations(recipe.data), recipe.data, recipe.train.seed)
    examples = [one for rows in (training, held_out) for one in encode_once(tokenizer, rows, recipe.data)[0]]
    assert len(examples) == 24
    assert check(recipe).held_out == 2 * len(held_out)
    asked = {event["prompt"] for event in run.events() if event["kind"] == "sample"}
    assert asked <= {"more", *(f"ask {number}" for number in range(12))}
    scored = evaluate(run, Engine(device="cpu"))
    assert scored["rows"] == scored["answered"] == 2 * len(held_out)
    details = json.loads((run.folder / "evaluation.json").read_text())["details"]
    assert sorted({len(entry["prompt"]) for entry in details}) == [1, 3]


def test_data_06_the_replies_of_a_conversation_are_on_one_side_of_the_split(recipe):
    training, held_out = split_conversations(load_conversations(recipe.data), recipe.data, recipe.train.seed)
    tokenizer, _ = prepared_tokenizer(recipe)
    sides = [{one.row for one in encode_once(tokenizer, rows, recipe.data)[0]} for rows in (training, held_out)]
    assert not sides[0] & sides[1]
