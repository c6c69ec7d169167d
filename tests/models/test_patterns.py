"""Regular expressions of users and of adapters: bounded in time, and refused by a code."""

import json

import pytest

from studio.errors import StudioError
from studio.models.adapter_check import check_adapter
from studio.models.adapters import check_target_modules
from studio.models.counts import count
from studio.models.patterns import Patterns
from studio.models.shapes import shapes_of
from studio.recipe import Recipe

EVIL = ("(([a-z._0-9])+)+[A-Z]$", "(a+)+$", r"(\w+\.?)*X", "(.*a){12}Z", "((x|x+)*)+y", "(?:(?:a*)*)*b")
FINE = (
    r".*\.(q|k|v)_proj",
    r"model\.layers\.\d+\.self_attn\.(q_proj|o_proj)",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)",
    r"model\.layers\.(1?[0-9])\..*",
)
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def code_of(act) -> str:
    with pytest.raises(StudioError) as caught:
        act()
    return caught.value.code


@pytest.mark.parametrize("pattern", EVIL)
def test_security_05_an_expression_that_could_take_for_ever_is_refused(pattern):
    method = Recipe.parse({"method": {"kind": "lora", "target_modules": pattern}}).method
    assert code_of(lambda: count(method, shapes_of(LLAMA))) == "pattern_slow"


@pytest.mark.parametrize("pattern", EVIL)
def test_security_05_a_pattern_of_ranks_that_could_take_for_ever_is_refused(pattern):
    method = Recipe.parse({"method": {"kind": "lora", "rank_pattern": {pattern: 4}}}).method
    assert code_of(lambda: count(method, shapes_of(LLAMA))) == "pattern_slow"


def test_security_05_a_model_is_not_asked_with_such_an_expression(tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert code_of(lambda: check_target_modules(model, EVIL[0])) == "pattern_slow"


@pytest.mark.parametrize("pattern", FINE)
def test_expressions_that_people_use_are_matched(pattern):
    names = [f"model.layers.{n}.self_attn.{m}_proj" for n in range(12) for m in "qkvo"]
    patterns = Patterns()
    assert isinstance([name for name in names if patterns.fits(pattern, name, "target_modules")], list)


@pytest.mark.parametrize("pattern", ["(", "[", "*a", "a" * 5000, "(?P<n>a)(?P<n>b)"])
def test_security_05_what_is_no_expression_is_refused(pattern):
    assert code_of(lambda: Patterns().fits(pattern, "model", "target_modules")) == "pattern_invalid"


def test_security_05_all_matches_together_have_one_time_limit(monkeypatch):
    from studio.models import patterns as module

    monkeypatch.setattr(module, "SECONDS", 0.0)
    assert code_of(lambda: Patterns().fits("a", "a", "target_modules")) == "pattern_slow"


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": EVIL[0]},
        {"exclude_modules": EVIL[0]},
        {"feedforward_modules": EVIL[0]},
        {"modules_to_save": [EVIL[0]]},
        {"rank_pattern": {EVIL[0]: 3}},
        {"alpha_pattern": {EVIL[0]: 3}},
        {"layers_pattern": [EVIL[0]]},
    ],
)
def test_security_05_an_adapter_with_such_an_expression_is_refused(config, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    assert code_of(lambda: check_adapter(tmp_path)) == "pattern_slow"


def test_security_05_an_adapter_may_not_name_a_module_to_import(tmp_path):
    config = {"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert code_of(lambda: check_adapter(tmp_path)) == "adapter_imports"


def test_an_ordinary_adapter_is_let_through(tmp_path):
    config = {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "layers_pattern": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    check_adapter(tmp_path)
