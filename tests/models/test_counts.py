"""The counts are PEFT's own, to the last number, for every method."""

import json

import pytest
from tiny import make_tiny_chat_model, make_tiny_gpt2

from studio.errors import StudioError
from studio.models.counts import bottleneck_size, count, factors, oft_block
from studio.models.headers import read_config
from studio.models.memory_estimate import estimate
from studio.models.shapes import shapes_of
from studio.recipe import Recipe
from studio.recipe.methods import METHODS

LLAMA = [
    ("full", {}),
    ("freeze", {}),
    ("freeze", {"num_trainable_layers": 1}),
    ("freeze", {"num_trainable_layers": 0, "trainable_modules": ["norm"]}),
    ("freeze", {"num_trainable_layers": 1, "trainable_modules": ["lm_head", "layers.0.mlp", "input_layernorm"]}),
    ("freeze", {"num_trainable_layers": 2, "trainable_modules": ["embed_tokens", "model.layers.0.self_attn.q_proj"]}),
    ("lora", {"r": 3}),
    ("lora", {"use_dora": True, "target_modules": ["q_proj", "mlp.down_proj"]}),
    ("lora", {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 5}}),
    ("lora", {"layers_to_transform": [1]}),
    ("lora", {"layers_to_transform": [0], "target_modules": ["v_proj"]}),
    ("lora", {"target_modules": r".*\.(k|v)_proj"}),
    ("lora", {"modules_to_save": ["lm_head"]}),
    ("lora", {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}),
    ("lora", {"modules_to_save": ["down_proj", "layers.1.self_attn"]}),
    ("lora", {"target_modules": ["q_proj", "lm_head", "embed_tokens"]}),
    ("lora", {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    ("adalora", {}),
    ("adalora", {"init_r": 5, "target_r": 2, "target_modules": ["o_proj"], "layers_to_transform": [1]}),
    ("adalora", {"modules_to_save": ["lm_head"]}),
    ("ia3", {}),
    ("ia3", {"target_modules": "all-linear"}),
    ("ia3", {"target_modules": ["q_proj", "down_proj"]}),
    ("ia3", {"target_modules": ["gate_proj", "o_proj"], "feedforward_modules": ["o_proj"]}),
    ("prompt_tuning", {}),
    ("prompt_tuning", {"num_virtual_tokens": 3}),
    ("p_tuning", {}),
    ("p_tuning", {"encoder_hidden_size": 7, "encoder_reparameterization_type": "LSTM"}),
    ("p_tuning", {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 3, "encoder_hidden_size": 5}),
    ("prefix_tuning", {}),
    ("prefix_tuning", {"prefix_projection": True, "encoder_hidden_size": 11, "num_virtual_tokens": 4}),
    ("loha", {}),
    ("loha", {"r": 3, "target_modules": ["up_proj"], "modules_to_save": ["norm"]}),
    ("lokr", {}),
    ("lokr", {"r": 2, "decompose_both": True}),
    ("lokr", {"r": 1, "decompose_factor": 4, "decompose_both": True}),
    ("lokr", {"r": 3, "decompose_factor": 5}),
    ("oft", {}),
    ("oft", {"oft_block_size": 4}),
    ("oft", {"oft_block_size": 5, "target_modules": ["down_proj", "q_proj"]}),
    ("boft", {}),
    ("boft", {"boft_block_size": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]}),
    ("vera", {}),
    ("vera", {"r": 6, "target_modules": ["q_proj", "down_proj"]}),
    ("hra", {}),
    ("hra", {"r": 4, "target_modules": ["k_proj"]}),
    ("ln_tuning", {}),
    ("ln_tuning", {"modules_to_save": ["model.norm", "lm_head"]}),
    ("bottleneck", {}),
    ("bottleneck", {"placement": "pfeiffer", "reduction_factor": 3}),
    ("bottleneck", {"reduction_factor": 100, "modules_to_save": ["lm_head"]}),
]
GPT2 = [  # PEFT has no LoHa, LoKr, OFT, BOFT and HRA for its kind of layers
    ("full", {}),
    ("freeze", {"num_trainable_layers": 1, "trainable_modules": ["wpe", "ln_f"]}),
    ("lora", {"r": 3, "rank_pattern": {"c_proj": 2}}),
    ("lora", {"use_dora": True, "layers_to_transform": [1]}),
    ("adalora", {"init_r": 4, "target_r": 2}),
    ("ia3", {}),
    ("ia3", {"target_modules": ["attn.c_proj", "mlp.c_proj"]}),
    ("prompt_tuning", {}),
    ("p_tuning", {"encoder_hidden_size": 9}),
    ("prefix_tuning", {}),
    ("prefix_tuning", {"prefix_projection": True}),
    ("vera", {"r": 4}),
    ("ln_tuning", {}),
    ("bottleneck", {}),
    ("bottleneck", {"placement": "pfeiffer"}),
]
CLASSES = [(kind, {}) for kind in METHODS if kind not in ("full", "freeze")] + [
    ("full", {}),
    ("freeze", {"num_trainable_layers": 1, "trainable_modules": ["score"]}),
    ("lora", {"modules_to_save": ["norm"], "layers_to_transform": [1]}),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("counts")
    return {
        "llama": make_tiny_chat_model(top / "llama"),
        "untied": make_tiny_chat_model(top / "untied", tie_word_embeddings=False),
        "gpt2": make_tiny_gpt2(top / "gpt2"),
    }


def recipe_of(kind, fields, task="causal_lm"):
    recipe = Recipe.parse({"method": {"kind": kind, **fields}, "model": {"task": task}})
    assert recipe.problems() == []
    return recipe


def made(model, recipe, new_token_ids=()):
    """(trainable, total) of the real thing."""
    from studio.models.methods import apply_method

    model = apply_method(model, recipe, new_token_ids)
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def names(settings):
    return [f"{kind} {json.dumps(fields)}" if fields else kind for kind, fields in settings]


def test_every_method_is_counted():
    assert {kind for kind, _ in LLAMA} == set(METHODS)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("kind", "fields"), LLAMA, ids=names(LLAMA))
def test_llama_is_counted_as_peft_counts_it(folders, kind, fields, tied):
    from transformers import AutoModelForCausalLM

    folder, recipe = folders["llama" if tied else "untied"], recipe_of(kind, fields)
    found = estimate(recipe, read_config(folder))
    counted = made(AutoModelForCausalLM.from_pretrained(folder), recipe)
    assert (found.trainable_parameters, found.total_parameters) == counted


@pytest.mark.parametrize(("kind", "fields"), GPT2, ids=names(GPT2))
def test_gpt2_is_counted_as_peft_counts_it(folders, kind, fields):
    from transformers import AutoModelForCausalLM

    recipe = recipe_of(kind, fields)
    found = estimate(recipe, read_config(folders["gpt2"]))
    counted = made(AutoModelForCausalLM.from_pretrained(folders["gpt2"]), recipe)
    assert (found.trainable_parameters, found.total_parameters) == counted


@pytest.mark.parametrize(("kind", "fields"), CLASSES, ids=names(CLASSES))
def test_a_head_that_sorts_into_classes_is_counted(folders, kind, fields):
    from transformers import AutoModelForSequenceClassification

    recipe = recipe_of(kind, fields, task="seq_cls")
    found = estimate(recipe, read_config(folders["llama"]), labels=3)
    model = AutoModelForSequenceClassification.from_pretrained(folders["llama"], num_labels=3)
    assert (found.trainable_parameters, found.total_parameters) == made(model, recipe)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["full", "freeze", "lora", "adalora", "ia3", "lokr", "ln_tuning", "bottleneck"])
def test_rows_of_new_tokens_are_counted(folders, kind, tied):
    from transformers import AutoModelForCausalLM

    folder, recipe = folders["llama" if tied else "untied"], recipe_of(kind, {})
    model = AutoModelForCausalLM.from_pretrained(folder)
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 3)
    found = estimate(recipe, read_config(folder), new_tokens=3)
    assert (found.trainable_parameters, found.total_parameters) == made(model, recipe, range(size, size + 3))


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind not in ("full", "freeze")])
def test_a_short_base_changes_nothing_but_adaloras_ranks(folders, kind):
    """PEFT 0.21 casts the rank that each layer begins with to float32, and so lets it be trained."""
    import torch
    from transformers import AutoModelForCausalLM

    recipe, config = recipe_of(kind, {}), read_config(folders["llama"])
    found, long = (estimate(recipe, config, dtype=dtype) for dtype in ("bfloat16", "float32"))
    counted = made(AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.bfloat16), recipe)
    assert (found.trainable_parameters, found.total_parameters) == counted
    assert found.trainable_parameters - long.trainable_parameters == (14 if kind == "adalora" else 0)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("kind", ["lora", "adalora", "ia3", "vera", "oft", "bottleneck", "ln_tuning", "prompt_tuning"])
def test_quantised_bases_are_counted(folders, kind, quantization):
    from studio.models.load import load_model

    recipe = Recipe.parse(
        {"model": {"id": str(folders["llama"]), "quantization": quantization}, "method": {"kind": kind}}
    )
    assert recipe.problems() == []
    found = estimate(recipe, read_config(folders["llama"]))
    counted = made(load_model(recipe.model, dtype="float32"), recipe)
    assert (found.trainable_parameters, found.total_parameters) == counted


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["ia3", "prefix_tuning", "ln_tuning", "bottleneck"])
def test_families_differ_in_names_norms_and_heads(family, kind):
    from test_memory_estimate import SMALL, on_meta

    values = {k: v for k, v in SMALL.items() if family != "gpt_neox" or k != "num_key_value_heads"}
    model, config = on_meta(family, **values)
    found = estimate(recipe_of(kind, {}), config)
    assert (found.trainable_parameters, found.total_parameters) == made(model, recipe_of(kind, {}))


@pytest.mark.parametrize("size", [1, 7, 12, 48, 64, 97, 128, 576, 1536, 11008])
@pytest.mark.parametrize("wanted", [-1, 1, 3, 4, 5, 8, 16, 100])
def test_sizes_are_split_as_peft_splits_them(size, wanted):
    from peft.tuners.lokr.layer import factorization

    assert factors(size, wanted) == factorization(size, wanted)


@pytest.mark.parametrize("inputs", [12, 48, 64, 97, 576])
@pytest.mark.parametrize("wanted", [2, 5, 7, 32, 60, 96, 1000])
def test_rotated_blocks_are_fitted_as_peft_fits_them(inputs, wanted):
    from peft.tuners.oft.layer import OFTLayer

    fits = inputs % wanted == 0 and wanted <= inputs
    assert oft_block(inputs, wanted) == (wanted if fits else OFTLayer.adjust_oft_parameters(None, inputs, wanted))


@pytest.mark.parametrize("factor", [1, 1.5, 7, 64, 1000])
def test_a_bottleneck_is_as_wide_as_the_studio_makes_it(factor):
    from studio.models import bottleneck

    assert bottleneck_size(576, factor) == bottleneck.bottleneck_size(576, factor)


@pytest.mark.parametrize(
    ("field", "value"), [("target_modules", "(q_proj"), ("rank_pattern", {"(q": 2}), ("modules_to_save", ["(head"])]
)
def test_a_broken_pattern_is_refused_with_the_field(folders, field, value):
    recipe = Recipe.parse({"method": {"kind": "lora", field: value}})
    with pytest.raises(StudioError, match="regular expression") as refused:
        count(recipe.method, shapes_of(read_config(folders["llama"])))
    assert refused.value.field == f"method.{field}"
