"""What does not go together is refused before the launch, with the field, the reason and a way out."""

import pytest

from studio.recipe import Recipe
from studio.recipe.methods import METHODS, PROMPTED

SPREAD = {"num_processes": 2, "distributed": "fsdp"}
REFUSED = {
    "FSDP with one process": ({"train": {"distributed": "fsdp"}}, "train.distributed"),
    "FSDP on a CPU": ({"train": {**SPREAD, "device": "cpu"}}, "train.distributed"),
    "FSDP and 4 bits": ({"model": {"quantization": "nf4"}, "train": SPREAD}, "train.distributed"),
    "FSDP and a classifier": ({"model": {"task": "seq_cls"}, "train": SPREAD}, "train.distributed"),
    "DeepSpeed that is not there": ({"train": {**SPREAD, "distributed": "deepspeed"}}, "train.distributed"),
    "quantised and full": ({"model": {"quantization": "nf4"}, "method": {"kind": "full"}}, "model.quantization"),
    "quantised and freeze": ({"model": {"quantization": "int8"}, "method": {"kind": "freeze"}}, "model.quantization"),
    "quantised and LoHa": ({"model": {"quantization": "fp4"}, "method": {"kind": "loha"}}, "model.quantization"),
    "quantised and BOFT": ({"model": {"quantization": "nf4"}, "method": {"kind": "boft"}}, "model.quantization"),
    "no modules": ({"method": {"kind": "oft", "target_modules": []}}, "method.target_modules"),
    "layers and a pattern": (
        {"method": {"kind": "lora", "target_modules": ".*q_proj", "layers_to_transform": [1]}},
        "method.layers_to_transform",
    ),
    "LoftQ without 4 bits": ({"method": {"kind": "lora", "init_lora_weights": "loftq"}}, "method.init_lora_weights"),
    "PiSSA and 4 bits": (
        {"model": {"quantization": "nf4"}, "method": {"kind": "lora", "init_lora_weights": "pissa"}},
        "method.init_lora_weights",
    ),
    "OLoRA and DoRA": (
        {"method": {"kind": "lora", "init_lora_weights": "olora", "use_dora": True}},
        "method.use_dora",
    ),
    "DoRA and 8 bits": (
        {"model": {"quantization": "int8"}, "method": {"kind": "lora", "use_dora": True}},
        "method.use_dora",
    ),
    "PiSSA on an earlier adapter": (
        {"model": {"adapter": "a-run"}, "method": {"kind": "lora", "init_lora_weights": "pissa"}},
        "method.init_lora_weights",
    ),
    "PiSSA and layers saved whole": (
        {"method": {"kind": "lora", "init_lora_weights": "pissa", "modules_to_save": ["norm"]}},
        "method.modules_to_save",
    ),
    "nothing to train": ({"method": {"kind": "freeze", "num_trainable_layers": 0}}, "method.num_trainable_layers"),
    "AdaLoRA that grows": ({"method": {"kind": "adalora", "init_r": 4, "target_r": 8}}, "method.target_r"),
    "AdaLoRA without a step to prune": (
        {"method": {"kind": "adalora", "warmup_share": 0.6, "final_share": 0.4}},
        "method.final_share",
    ),
    "prompt tuning from no text": (
        {"method": {"kind": "prompt_tuning", "prompt_tuning_init": "text"}},
        "method.prompt_tuning_init_text",
    ),
    "prefix tuning and checkpointing": (
        {"method": {"kind": "prefix_tuning"}, "train": {"gradient_checkpointing": True}},
        "train.gradient_checkpointing",
    ),
    "packing and virtual tokens": ({"method": {"kind": "prompt_tuning"}, "train": {"packing": True}}, "train.packing"),
    "packing and a classifier": ({"model": {"task": "seq_cls"}, "train": {"packing": True}}, "train.packing"),
    "packing and NEFTune": ({"train": {"packing": True, "neftune_noise_alpha": 5}}, "train.packing"),
    "GaLore and an adapter": ({"train": {"optim": "galore_adamw"}}, "train.optim"),
    "an adapter and full": ({"model": {"adapter": "a-run"}, "method": {"kind": "full"}}, "model.adapter"),
    "an adapter and virtual tokens": ({"model": {"adapter": "a"}, "method": {"kind": "p_tuning"}}, "model.adapter"),
    "the best of nothing": ({"data": {"holdout": 0}, "train": {"keep_best": True}}, "train.keep_best"),
    "stopping without a measure": (
        {"data": {"holdout": 0}, "train": {"early_stopping_patience": 2}},
        "train.early_stopping_patience",
    ),
    "two ways to hold out": (
        {"data": {"holdout_rows": 3, "holdout_column": "part"}},
        "data.holdout_column",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_field_and_a_way_out(name):
    values, field = REFUSED[name]
    problems = Recipe.parse(values).problems()
    assert field in [problem.field for problem in problems]
    assert all(problem.what.endswith((".", ")")) and problem.fix for problem in problems)


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_is_sound_as_it_comes(kind):
    assert Recipe.parse({"method": {"kind": kind}}).problems() == []


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("kind", ["lora", "adalora", "ia3", "vera", "oft", "bottleneck", "ln_tuning", *PROMPTED])
def test_adapters_beside_quantised_weights_are_sound(kind, quantization):
    assert Recipe.parse({"model": {"quantization": quantization}, "method": {"kind": kind}}).problems() == []


def test_a_projection_that_is_not_installed_is_named_with_its_package():
    (problem,) = Recipe.parse({"method": {"kind": "full"}, "train": {"optim": "apollo_adamw"}}).problems()
    assert "pip install apollo-torch" in problem.fix
