"""The tokens that end a reply are one set, for every chat template."""

from types import SimpleNamespace

import pytest
from families import tokenizer
from template_zoo import tokenizer_of

from studio.data.stops import end_of_turn_ids, set_stops, stop_ids


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("qwen2_5", ["<|im_end|>"]),
        ("llama3", ["<|eot_id|>"]),
        ("gemma3", ["<end_of_turn>"]),
        ("phi3", ["<|end|>"]),
        ("gptoss", ["<|return|>", "<|call|>"]),
        ("llava_next", []),
    ],
)
def test_data_10_a_reply_ends_with_the_end_of_turn_token_of_its_template(name, ends):
    made = tokenizer_of(name)
    assert end_of_turn_ids(made) == made.convert_tokens_to_ids(ends)


def test_data_10_the_set_holds_the_ends_of_the_template_the_tokenizer_and_the_model():
    made = tokenizer_of("qwen2_5")
    end = made.convert_tokens_to_ids("<|im_end|>")
    assert stop_ids(made) == {end, made.eos_token_id}
    assert stop_ids(made, SimpleNamespace(eos_token_id=7)) == {end, made.eos_token_id, 7}
    assert stop_ids(made, SimpleNamespace(eos_token_id=[7, 9])) == {end, made.eos_token_id, 7, 9}


def test_data_10_a_models_settings_name_every_end_and_the_padding_token():
    made = tokenizer("llama3")
    settings = SimpleNamespace(eos_token_id=made.eos_token_id, pad_token_id=None)
    set_stops(settings, made)
    assert settings.eos_token_id == [made.convert_tokens_to_ids("<|eot_id|>"), made.eos_token_id]
    assert settings.pad_token_id == made.pad_token_id
    set_stops(settings, made)
    assert len(settings.eos_token_id) == 2
