"""Every way to tune: it trains what it says, is off when it is off, and means the same when it is loaded again."""

import copy

import pytest
import torch
from peft import PeftModel

from studio.errors import StudioError
from studio.models.efficient_hra_boft import turn_inputs
from studio.models.load import load_model, load_tokenizer
from studio.models.methods import apply_method, count_parameters
from studio.recipe import Recipe
from studio.recipe.methods import METHODS, PROMPTED, WHOLE

IDS = torch.arange(10, 40).view(1, -1)
CASES = {kind: {"kind": kind} for kind in METHODS} | {
    "freeze, modules": {"kind": "freeze", "num_trainable_layers": 0, "trainable_modules": ["norm", "layers.0.mlp"]},
    "lora, rsLoRA": {"kind": "lora", "use_rslora": True, "r": 4},
    "lora, DoRA": {"kind": "lora", "use_dora": True, "r": 4},
    "lora, orthogonal": {"kind": "lora", "init_lora_weights": "orthogonal", "r": 4},
    "lora, gaussian": {"kind": "lora", "init_lora_weights": "gaussian", "r": 4},
    "lora, patterns": {"kind": "lora", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 4}},
    "lora, one layer": {"kind": "lora", "layers_to_transform": [1]},
    "lora, named": {"kind": "lora", "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["norm"]},
    "lora, pattern": {"kind": "lora", "target_modules": r".*layers\.0\..*_proj"},
    "prompt_tuning, text": {
        "kind": "prompt_tuning",
        "prompt_tuning_init": "text",
        "prompt_tuning_init_text": "Answer the question.",
        "num_virtual_tokens": 7,
    },
    "p_tuning, LSTM": {"kind": "p_tuning", "encoder_reparameterization_type": "LSTM"},
    "prefix_tuning, projection": {"kind": "prefix_tuning", "prefix_projection": True},
    "lokr, both": {"kind": "lokr", "decompose_both": True, "r": 2},
    "oft, constrained": {"kind": "oft", "coft": True, "oft_block_size": 8},
    "boft, two factors": {"kind": "boft", "boft_n_butterfly_factor": 2, "boft_block_size": 4},
    "bottleneck, pfeiffer": {"kind": "bottleneck", "placement": "pfeiffer", "reduction_factor": 4},
}
ADAPTERS = [name for name, fields in CASES.items() if fields["kind"] not in WHOLE]


@pytest.fixture(scope="module")
def recipe_of(tmp_path_factory):
    from tiny import make_tiny_chat_model

    folder = make_tiny_chat_model(tmp_path_factory.mktemp("model"))

    def make(method: dict, **model) -> Recipe:
        recipe = Recipe.parse({"model": {"id": str(folder), "dtype": "float32", **model}, "method": method})
        assert not recipe.problems()
        return recipe

    return make


def base(recipe):
    return load_model(recipe.model, dtype="float32").eval()


def tune(recipe, model, steps: int = 3):
    """The model after some steps of AdamW, in evaluation mode."""
    tuned = apply_method(model, recipe, steps=20, tokenizer=load_tokenizer(recipe.model.id)).train()
    rate = METHODS[recipe.method.kind].suggested
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        tuned(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tuned.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@torch.no_grad()
def loss(model) -> float:
    return model(input_ids=IDS, labels=IDS).loss.item()


@pytest.mark.parametrize("name", CASES)
def test_a_few_steps_lower_the_loss(recipe_of, name):
    torch.manual_seed(0)
    recipe = recipe_of(CASES[name])
    begun = apply_method(base(recipe), recipe, steps=20, tokenizer=load_tokenizer(recipe.model.id)).eval()
    first = loss(begun)
    torch.manual_seed(0)
    assert loss(tune(recipe, base(recipe), 5)) < first


@pytest.mark.parametrize("name", ADAPTERS)
def test_switched_off_it_is_the_base_to_the_last_bit(recipe_of, name):
    recipe = recipe_of(CASES[name])
    model = base(recipe)
    before = logits(model)
    tuned = tune(recipe, model)
    assert not torch.equal(logits(tuned), before)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned), before)


@pytest.mark.parametrize("name", ADAPTERS)
def test_saved_and_loaded_it_gives_the_same_logits(recipe_of, name, tmp_path):
    recipe = recipe_of(CASES[name])
    tuned = tune(recipe, base(recipe))
    tuned.save_pretrained(tmp_path)
    torch.manual_seed(99)
    loaded = PeftModel.from_pretrained(base(recipe), tmp_path).eval()
    turn_inputs(loaded)
    again = logits(loaded)
    rounding = 1e-6 if "LSTM" in name else 0  # an LSTM's vectors are computed in another batch
    assert torch.allclose(again, logits(tuned), rtol=0, atol=rounding)


@pytest.mark.parametrize("name", [n for n in ADAPTERS if METHODS[CASES[n]["kind"]].merges])
def test_merged_it_says_the_same(recipe_of, name):
    recipe = recipe_of(CASES[name])
    tuned = tune(recipe, base(recipe))
    expected = logits(tuned)
    merged = copy.deepcopy(tuned).merge_and_unload()
    assert type(merged) is type(base(recipe))
    assert torch.allclose(logits(merged), expected, atol=2e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_parameters_are_counted_as_peft_counts_them(recipe_of, name):
    recipe = recipe_of(CASES[name])
    tuned = apply_method(base(recipe), recipe, steps=20, tokenizer=load_tokenizer(recipe.model.id))
    assert count_parameters(tuned) == tuned.get_nb_trainable_parameters()


def test_freezing_trains_the_last_blocks_alone(recipe_of):
    recipe = recipe_of({"kind": "freeze", "num_trainable_layers": 1})
    model = apply_method(base(recipe), recipe)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".layers.1." in name}


@pytest.mark.parametrize(
    ("method", "field", "what"),
    [
        ({"kind": "freeze", "num_trainable_layers": 9}, "method.num_trainable_layers", "2 blocks"),
        ({"kind": "freeze", "trainable_modules": ["nothing"]}, "method.trainable_modules", "no module nothing"),
        ({"kind": "lora", "layers_to_transform": [7]}, "method.layers_to_transform", "2 blocks"),
        ({"kind": "boft", "boft_block_size": 5}, "method.kind", "BOFT does not fit this model"),
    ],
)
def test_what_the_model_does_not_have_is_refused_with_the_field(recipe_of, method, field, what):
    recipe = recipe_of(method)
    with pytest.raises(StudioError) as caught:
        apply_method(base(recipe), recipe)
    assert caught.value.field == field
    assert what in caught.value.what


@pytest.mark.parametrize("kind", PROMPTED)
def test_vectors_before_the_text_cannot_teach_new_tokens(recipe_of, kind):
    recipe = recipe_of({"kind": kind})
    with pytest.raises(StudioError, match="never seen"):
        apply_method(base(recipe), recipe, [3])


@pytest.mark.parametrize("kind", [k for k in METHODS if k not in (*WHOLE, *PROMPTED)])
def test_an_adapter_trains_new_tokens_too(recipe_of, kind, tmp_path):
    recipe = recipe_of({"kind": kind})
    model = base(recipe)
    row = model.get_input_embeddings().weight[20].clone()
    tuned = apply_method(model, recipe, [20], steps=20).train()
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.5)
    tuned(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    tuned.eval().save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(recipe), tmp_path).eval()
    turn_inputs(again)
    vectors = again.get_input_embeddings()(torch.tensor([20])).detach()
    assert not torch.allclose(vectors[0], row)
    assert torch.equal(logits(again), logits(tuned))


@pytest.mark.parametrize("kind", ["lora", "adalora", "oft", "bottleneck", "ia3"])
def test_an_earlier_adapter_is_gone_on_from(home, recipe_of, kind, tmp_path):
    recipe = recipe_of({"kind": kind})
    tuned = tune(recipe, base(recipe))
    tuned.save_pretrained(tmp_path / "adapter")
    further = recipe_of({"kind": kind}, adapter=str(tmp_path / "adapter"))
    model = apply_method(base(further), further)
    assert torch.equal(logits(model.eval()), logits(tuned))
    assert count_parameters(model)[0] == count_parameters(tuned)[0] > 0


def test_an_earlier_adapter_of_another_method_is_refused(home, recipe_of, tmp_path):
    recipe = recipe_of({"kind": "lora"})
    tune(recipe, base(recipe)).save_pretrained(tmp_path / "adapter")
    other = recipe_of({"kind": "ia3"}, adapter=str(tmp_path / "adapter"))
    with pytest.raises(StudioError, match="trained with LoRA"):
        apply_method(base(other), other)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("kind", ["lora", "adalora", "ia3", "vera", "oft", "bottleneck", "ln_tuning", *PROMPTED])
def test_adapters_learn_beside_quantised_weights(tmp_path, kind, quantization):
    from tiny import make_tiny_chat_model

    folder = make_tiny_chat_model(tmp_path / "m", hidden_size=64)
    recipe = Recipe.parse({"model": {"id": str(folder), "quantization": quantization}, "method": {"kind": kind}})
    torch.manual_seed(0)
    begun = apply_method(load_model(recipe.model, dtype="float32"), recipe, steps=20).eval()
    first = loss(begun)
    torch.manual_seed(0)
    assert loss(tune(recipe, load_model(recipe.model, dtype="float32"), 5)) < first
