"""Over all chat templates of TRL: each row is exact to the token, or it is flagged or refused with a code."""

from pathlib import Path

import pytest
from template_zoo import FEATURES, NAMES, check_exact, conversation, parts, tokenizer_of, verdict

from studio.data.encode import encode_conversation, encode_prompt, encoded_one_by_one
from studio.data.flags import FLAGS
from studio.data.quality_report import KINDS
from studio.errors import StudioError
from studio.recipe import DataSpec

SEEDS = range(4)
TABLE = Path(__file__).resolve().parents[2] / "docs" / "chat-templates.md"


@pytest.mark.parametrize("name", NAMES)
def test_random_conversations_are_exact_to_the_token_or_flagged_or_refused_with_a_code(name):
    made = tokenizer_of(name)
    for feature in FEATURES:
        for seed in SEEDS:
            messages, tools = conversation(feature, seed)
            result, codes = verdict(made, messages, tools)
            if result == "exact":
                check_exact(made, messages, tools, encode_conversation(made, messages, tools=tools))
            elif result == "flagged":
                assert set(codes) <= set(FLAGS)
                text = encode_conversation(made, messages, tools=tools).text
                lost = {word for word in parts(messages) if word not in text}
                thoughts = {word for m in messages for word in m.get("reasoning_content", "").split()}
                assert not lost or ("reasoning_dropped" in codes and lost <= thoughts)


@pytest.mark.parametrize("name", NAMES)
def test_one_example_per_reply_has_the_prompt_of_inference_or_is_flagged_or_refused(name):
    made = tokenizer_of(name)
    for feature in ("turns", "reasoning_turns", "tools"):
        messages, tools = conversation(feature, 7)
        row = {"row": 1, "messages": messages, "tools": tools}
        for _, example in encoded_one_by_one(made, [row], DataSpec(split_turns=True, max_length=4096)):
            if isinstance(example, StudioError):
                assert example.code
            elif "context_mismatch" not in {flag.code for flag in example.flags}:
                prompt = encode_prompt(made, messages[: example.turn], tools=tools)
                assert example.input_ids[: len(prompt)] == prompt
                assert {*example.labels[: len(prompt)]} == {-100}


def test_every_flag_can_be_counted_by_the_check():
    assert set(FLAGS) <= set(KINDS)


def test_the_table_of_chat_templates_names_every_template():
    table = TABLE.read_text(encoding="utf-8").partition("| template |")[2]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
    assert rows == [f"`{name}`" for name in NAMES]
