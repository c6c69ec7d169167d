"""The chat templates of the field, as TRL keeps them: each is masked exactly or refused, never masked wrongly."""

import re

import pytest
from families import written
from template_zoo import FOLDER, NAMES, tokenizer_for

from studio.data import encode_conversation
from studio.data.encode import IGNORE
from studio.errors import StudioError

SYSTEM = {"role": "system", "content": "system-zero speaks"}
TURNS = [
    {"role": "user", "content": "user-one asks"},
    {"role": "assistant", "content": "assistant-one answers"},
    {"role": "user", "content": "user-two asks"},
    {"role": "assistant", "content": "assistant-two answers"},
    {"role": "user", "content": "user-three asks"},
    {"role": "assistant", "content": "assistant-three answers"},
]
END = r"(<[^<>\s]+>)"  # an end-of-turn token
REFUSED = {
    "glm4moe": "turn_not_closed",
    # these take a list of parts where a text is
    **dict.fromkeys(("idefics3", "idefics3_training", "smolvlm", "smolvlm_training"), "message_lost"),
    **dict.fromkeys(("llava_next", "llava_next_training"), "template_refused"),
}
WITHOUT_SYSTEM = ("gemma", "gemma_training")  # they refuse a system message


def trained_runs(encoded) -> list[list[int]]:
    """The trained tokens, a list for each unbroken run of them."""
    runs: list[list[int]] = []
    before = IGNORE
    for label in encoded.labels:
        if label != IGNORE:
            if before == IGNORE:
                runs.append([])
            runs[-1].append(label)
        before = label
    return runs


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("system", [False, True], ids=["no system", "system"])
@pytest.mark.parametrize("name", NAMES)
def test_a_known_template_is_masked_exactly_or_refused(name, system, turns):
    made = tokenizer_for((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    messages = [SYSTEM] * system + TURNS[: 2 * turns]
    if name in REFUSED or (system and name in WITHOUT_SYSTEM):
        with pytest.raises(StudioError) as caught:
            encode_conversation(made, messages)
        assert caught.value.code == REFUSED.get(name, "template_refused")
        return
    encoded = encode_conversation(made, messages)
    runs = [written(made, run) for run in trained_runs(encoded)]
    assert len(runs) == turns
    for run, message in zip(runs, messages[1 + system :: 2], strict=True):
        assert re.search(re.escape(message["content"]) + rf"\s*{END}+\s*$", run)
        assert not re.search("user-|system-|asks|speaks", run)


@pytest.mark.parametrize("name", WITHOUT_SYSTEM)
def test_a_template_that_takes_no_system_message_says_so(name):
    made = tokenizer_for((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    with pytest.raises(StudioError, match="System role not supported"):
        encode_conversation(made, [SYSTEM, *TURNS])


@pytest.mark.parametrize("name", ["cohere2", "cohere2_training"])
def test_a_turn_that_is_closed_by_two_tokens_is_trained_through_the_one_that_ends_it(name):
    made = tokenizer_for((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    made.eos_token = "<|END_OF_TURN_TOKEN|>"
    encoded = encode_conversation(made, TURNS[:2])
    said = [written(made, run) for run in trained_runs(encoded)]
    assert len(said) == 1
    assert said[0].endswith("assistant-one answers<|END_RESPONSE|><|END_OF_TURN_TOKEN|>")
