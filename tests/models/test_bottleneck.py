"""Bottleneck adapters: the papers' equations, and a method like any other for PEFT."""

import copy
import importlib
import json

import pytest
import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.utils import PeftType
from torch.nn import functional as F

from studio.models import bottleneck
from studio.models.bottleneck import (
    BottleneckConfig,
    BottleneckLayer,
    bottleneck_parameters,
    bottleneck_size,
    output_modules,
)
from studio.models.load import load_model
from studio.recipe import ModelSpec

IDS = torch.arange(10, 34).view(2, 12)
HIDDEN = 32


def base(folder, dtype="float32"):
    return load_model(ModelSpec(id=str(folder)), dtype=dtype).eval()


def adapted(model, seed=0, **fields):
    """The model with adapters that do something from the start."""
    torch.manual_seed(seed)
    return get_peft_model(model, BottleneckConfig(**{"reduction_factor": 4, "init_weights": False} | fields)).eval()


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def tiny_bert(layers=2):
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=80, num_labels=3, **sizes)).eval()


def empty(name, **fields):
    """A model of a family without weights."""
    import transformers

    config = getattr(transformers, f"{name}Config")(pad_token_id=0, **fields)
    with torch.device("meta"):
        return transformers.AutoModel.from_config(config)


def matched(model, placement):
    """The dotted names that PEFT wraps."""
    wrapped = get_peft_model(model, BottleneckConfig(placement=placement))
    return wrapped.base_model.targeted_module_names


# --- the type in PEFT


def test_the_type_is_a_member_of_the_closed_enum():
    assert PeftType("BOTTLENECK") is PeftType.BOTTLENECK is PeftType["BOTTLENECK"]
    assert list(PeftType).count("BOTTLENECK") == 1


def test_a_reload_registers_the_new_classes(tiny_model):
    first = dict(vars(bottleneck))
    try:
        importlib.reload(bottleneck)
        assert list(PeftType).count("BOTTLENECK") == 1
        assert bottleneck.BottleneckModel is not first["BottleneckModel"]
        model = get_peft_model(base(tiny_model), bottleneck.BottleneckConfig())
        assert isinstance(model.base_model, bottleneck.BottleneckModel)
    finally:  # the other tests hold the first classes
        vars(bottleneck).update(first)
        bottleneck._register()


# --- where adapters stand


@pytest.mark.parametrize(
    ("placement", "ends"), [("houlsby", ["self_attn.o_proj", "mlp.down_proj"]), ("pfeiffer", ["mlp.down_proj"])]
)
def test_the_layers_of_llama_are_found_and_saved_in_the_config(tiny_model, placement, ends):
    model = adapted(base(tiny_model), placement=placement)
    assert model.peft_config["default"].target_modules == ends


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
DISTIL = {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 50}
OPT = SMALL | {"ffn_dim": 32, "word_embed_proj_dim": 16}


@pytest.mark.parametrize(
    ("name", "fields", "ends"),
    [
        ("Mistral", SMALL, ["self_attn.o_proj", "mlp.down_proj"]),
        ("Qwen2", SMALL, ["self_attn.o_proj", "mlp.down_proj"]),
        ("Gemma2", SMALL, ["self_attn.o_proj", "mlp.down_proj"]),
        ("Phi3", SMALL, ["self_attn.o_proj", "mlp.down_proj"]),
        ("Phi", SMALL, ["self_attn.dense", "mlp.fc2"]),
        ("GPT2", GPT2, ["attn.c_proj", "mlp.c_proj"]),
        ("GPTNeoX", SMALL, ["attention.dense", "mlp.dense_4h_to_h"]),
        ("OPT", OPT, ["self_attn.out_proj", "fc2"]),
        ("Bert", SMALL, ["attention.output.dense", "output.dense"]),
        ("Roberta", SMALL, ["attention.output.dense", "output.dense"]),
        ("DistilBert", DISTIL, ["attention.out_lin", "ffn.lin2"]),
    ],
)
def test_the_layers_of_a_family_are_found(name, fields, ends):
    assert output_modules(empty(name, **fields), "houlsby") == ends


def test_pfeiffer_on_bert_leaves_the_output_of_attention_alone():
    names = [f"bert.encoder.layer.{i}.output.dense" for i in range(12)]
    assert matched(tiny_bert(12), "pfeiffer") == names


def test_houlsby_on_bert_wraps_both_outputs_of_a_layer():
    layer = "bert.encoder.layer.0"
    assert matched(tiny_bert(1), "houlsby") == [f"{layer}.attention.output.dense", f"{layer}.output.dense"]


def test_a_model_without_known_sublayers_is_answered_with_its_linear_layers():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.add_module("strange", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"attention part are not known.*are: 0, strange"):
        output_modules(model, "houlsby")


def test_towers_for_pictures_are_left_out():
    from torch.nn import Linear, ModuleDict

    def layer():
        return ModuleDict({"self_attn": ModuleDict({"o_proj": Linear(2, 2)}), "mlp": ModuleDict({"fc2": Linear(2, 2)})})

    model = ModuleDict({"visual": layer(), "text": layer()})
    assert output_modules(model, "houlsby") == ["text.self_attn.o_proj", "text.mlp.fc2"]


def test_a_mixture_of_experts_is_refused():
    fields = SMALL | {"num_local_experts": 2, "num_key_value_heads": 2}
    with pytest.raises(ValueError, match=r"mixture of experts.*o_proj"):
        output_modules(empty("Mixtral", **fields), "pfeiffer")


def test_only_linear_layers_are_wrapped(tiny_model):
    with pytest.raises(ValueError, match="linear layer, not Embedding"):
        adapted(base(tiny_model), target_modules=["embed_tokens"])


# --- how many numbers are trained


@pytest.mark.parametrize(("placement", "per_layer"), [("houlsby", 2), ("pfeiffer", 1)])
@pytest.mark.parametrize("name", ["tiny_model", "tiny_gpt2", "bert"])
def test_the_trained_numbers_are_those_of_the_closed_formula(name, placement, per_layer, request):
    model = tiny_bert() if name == "bert" else base(request.getfixturevalue(name))
    trained, _ = adapted(model, placement=placement, reduction_factor=5).get_nb_trainable_parameters()
    assert trained == bottleneck_parameters([HIDDEN] * 2 * per_layer, 5)
    assert trained == 2 * per_layer * (2 * 32 * 6 + 6 + 32)


def test_a_bottleneck_has_at_least_one_unit():
    assert [bottleneck_size(32, factor) for factor in (1000, 5, 1, 0.5)] == [1, 6, 32, 64]


# --- what is computed


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("non_linearity", ["gelu", "silu", "tanh", "identity", "relu"])
def test_gradients_are_the_numerical_ones(non_linearity, residual):
    torch.manual_seed(3)
    fields = {"reduction_factor": 2, "non_linearity": non_linearity, "residual": residual, "init_weights": False}
    layer = BottleneckLayer(torch.nn.Linear(3, 6).double(), "default", BottleneckConfig(**fields))
    names = [name for name, _ in layer.named_parameters()]
    values = [torch.randn_like(p).requires_grad_() for p in layer.parameters()]
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert len(names) == 6
    assert torch.autograd.gradcheck(run, (x, *values))


def adapter(weights, name, x):
    """y + up(relu(down(y))) with the saved weights of one place; y itself where there are none."""
    places = {key.split(".bottleneck_")[0] for key in weights}
    place = next((p for p in places if p.endswith(name)), None)
    if place is None:
        return x
    down = F.linear(x, weights[f"{place}.bottleneck_down.weight"], weights[f"{place}.bottleneck_down.bias"])
    return x + F.linear(down.relu(), weights[f"{place}.bottleneck_up.weight"], weights[f"{place}.bottleneck_up.bias"])


def rotate(x, cos, sin):
    """Rotary positions on (batch, heads, tokens, width)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def llama(model, weights, ids):
    """Llama's logits from a plain model's matrices, with an adapter before each skip connection."""
    (batch, tokens), config = ids.shape, model.config
    width = config.hidden_size // config.num_attention_heads
    x = model.model.embed_tokens(ids)
    cos, sin = (t[:, None] for t in model.model.rotary_emb(x, torch.arange(tokens)[None]))
    hidden_from = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    for i, layer in enumerate(model.model.layers):
        attention, mlp, z = layer.self_attn, layer.mlp, layer.input_layernorm(x)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (p(z).view(batch, tokens, -1, width).transpose(1, 2) for p in projections)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        scores = (q @ k.transpose(-1, -2) / width**0.5).masked_fill(hidden_from, float("-inf"))
        heads = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, -1)
        x = x + adapter(weights, f"layers.{i}.self_attn.o_proj", attention.o_proj(heads))
        z = layer.post_attention_layernorm(x)
        x = x + adapter(weights, f"layers.{i}.mlp.down_proj", mlp.down_proj(F.silu(mlp.gate_proj(z)) * mlp.up_proj(z)))
    return model.lm_head(model.model.norm(x))


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@torch.no_grad()
def test_a_placement_is_the_paper_s_equations(tiny_model, placement):
    plain = base(tiny_model)
    model = adapted(copy.deepcopy(plain), placement=placement)
    for name, value in model.named_parameters():
        if "bottleneck_" in name:
            value.normal_(std=0.3)
    expected = llama(plain, get_peft_model_state_dict(model), IDS)
    assert torch.allclose(logits(model), expected, atol=1e-5)
    assert not torch.allclose(expected, llama(plain, {}, IDS), atol=1e-2)
    assert torch.allclose(logits(plain), llama(plain, {}, IDS), atol=1e-5)


def test_a_new_adapter_leaves_the_logits_as_they_are(tiny_model):
    model = base(tiny_model)
    before = logits(model)
    assert torch.equal(logits(adapted(model, init_weights=True)), before)


@pytest.mark.parametrize("non_linearity", ["relu", "gelu", "silu", "tanh", "identity"])
@pytest.mark.parametrize("factor", [1, 0.4])
def test_a_wide_adapter_without_residual_starts_near_the_identity(factor, non_linearity):
    config = BottleneckConfig(residual=False, reduction_factor=factor, non_linearity=non_linearity)
    linear, x = torch.nn.Linear(8, 8), torch.randn(50, 8)
    layer = BottleneckLayer(linear, "default", config)
    assert torch.allclose(layer(x), linear(x), atol=0.02)


def test_without_residual_the_output_is_the_bottleneck_alone():
    linear = torch.nn.Linear(8, 8)
    layer = BottleneckLayer(linear, "default", BottleneckConfig(residual=False, reduction_factor=2))
    down, up, x = layer.bottleneck_down["default"], layer.bottleneck_up["default"], torch.randn(5, 8)
    assert torch.equal(layer(x), up(down(linear(x)).relu()))
    assert up.weight.abs().min() > 0


def test_dropout_falls_on_the_input_of_the_adapter_alone():
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 8)
    config = BottleneckConfig(dropout=0.5, reduction_factor=1, non_linearity="identity", init_weights=False)
    layer, x = BottleneckLayer(linear, "default", config), torch.randn(5, 8)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    torch.manual_seed(1)
    trained = layer(x)
    torch.manual_seed(1)
    y = linear(x)
    assert torch.equal(trained, y + up(down(F.dropout(y, 0.5))))
    assert torch.equal(layer.eval()(x), y + up(down(y)))


def test_adapters_that_are_off_give_the_base_bit_for_bit(tiny_model):
    model = base(tiny_model)
    before = logits(model)
    tuned = adapted(model)
    assert not torch.equal(logits(tuned), before)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned), before)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float32_adapters_work_on_a_coarse_base(tiny_model, dtype):
    model = adapted(base(tiny_model, dtype))
    out = model(input_ids=IDS, labels=IDS)
    out.loss.backward()
    kinds = {(p.dtype, p.grad is None or bool(p.grad.isfinite().all())) for p in model.parameters() if p.requires_grad}
    assert out.logits.dtype == getattr(torch, dtype) and out.logits.isfinite().all()
    assert kinds == {(torch.float32, True)}


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_is_only_called(tmp_path, quantization):
    from tiny import make_tiny_chat_model

    spec = ModelSpec(id=str(make_tiny_chat_model(tmp_path / "m", hidden_size=64)), quantization=quantization)
    model = load_model(spec, dtype="float32")
    before = logits(model)
    tuned = adapted(model)
    tuned(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in tuned.parameters() if p.requires_grad)
    assert torch.equal(logits(tuned.unload()), before)


# --- training, saving, several adapters


def test_training_lowers_the_loss_and_leaves_the_base_untouched(tiny_model):
    model = adapted(base(tiny_model), init_weights=True).train()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if "bottleneck_" not in name}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(6):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05  # a random tied head can only give small logits
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_only_the_adapters_are_trained_and_saved(tiny_model):
    model = adapted(base(tiny_model))
    weights = get_peft_model_state_dict(model)
    assert len(weights) == 4 * 4
    assert all("bottleneck_down." in key or "bottleneck_up." in key for key in weights)
    assert all("bottleneck_" in name for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("name", ["tiny_model", "tiny_gpt2"])
def test_saved_and_loaded_it_gives_the_same_logits(name, placement, request, tmp_path):
    folder = request.getfixturevalue(name)
    model = adapted(base(folder), placement=placement, non_linearity="gelu", residual=False)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "BOTTLENECK"
    again = PeftModel.from_pretrained(base(folder), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    assert not any(p.requires_grad for p in again.parameters())


def test_float32_adapters_come_back_exactly_on_a_coarse_base(tiny_model, tmp_path):
    model = adapted(base(tiny_model, "bfloat16"))
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p)  # new ones have been rounded to the base's format by PEFT
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(tiny_model, "bfloat16"), tmp_path)
    first, second = get_peft_model_state_dict(model), get_peft_model_state_dict(again)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_it_can_be_loaded_without_making_weights_twice(tiny_model, tmp_path):
    model = adapted(base(tiny_model))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(tiny_model), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(logits(again), logits(model))


def test_the_config_comes_back_as_it_was_saved(tiny_model, tmp_path):
    config = BottleneckConfig(placement="pfeiffer", reduction_factor=2.5, dropout=0.1, residual=False)
    get_peft_model(base(tiny_model), config).save_pretrained(tmp_path)
    again = PeftConfig.from_pretrained(tmp_path)
    assert type(again) is BottleneckConfig
    kept = ("placement", "reduction_factor", "dropout", "residual", "target_modules", "peft_type")
    assert [getattr(again, name) for name in kept] == [getattr(config, name) for name in kept]


def test_two_adapters_are_switched_and_one_is_deleted(tiny_model, tmp_path):
    first = adapted(base(tiny_model), seed=1)
    second = adapted(base(tiny_model), seed=2, placement="pfeiffer", non_linearity="tanh", reduction_factor=8)
    second.save_pretrained(tmp_path)
    one, two = logits(first), logits(second)
    assert not torch.equal(one, two)
    first.load_adapter(tmp_path, "other")
    assert torch.equal(logits(first), one)
    first.set_adapter("other")
    assert torch.equal(logits(first), two)
    first.set_adapter("default")
    assert torch.equal(logits(first), one)
    first.delete_adapter("default")
    first.set_adapter("other")
    assert torch.equal(logits(first), two)
    assert not any("default" in name for name, _ in first.named_parameters())


def test_a_second_adapter_finds_the_layers_of_a_wrapped_model(tiny_model):
    model = adapted(base(tiny_model))
    model.add_adapter("other", BottleneckConfig(placement="pfeiffer"))
    assert model.peft_config["other"].target_modules == ["mlp.down_proj"]
    assert not any(p.requires_grad for name, p in model.named_parameters() if "other" in name)


def test_active_adapters_are_applied_one_after_the_other():
    linear, config = torch.nn.Linear(8, 8), BottleneckConfig(reduction_factor=2, init_weights=False)
    layer, x = BottleneckLayer(linear, "a", config), torch.randn(5, 8)
    layer.update_layer("b", config)
    layer.set_adapter(["b", "a"])
    y = linear(x)
    for name in ("b", "a"):
        y = y + layer.bottleneck_up[name](layer.bottleneck_down[name](y).relu())
    assert torch.equal(layer(x), y)


def test_a_classifier_is_trained_saved_and_restored(tmp_path):
    model, ids = tiny_bert(), IDS
    plain = copy.deepcopy(model)
    tuned = adapted(model, task_type=TaskType.SEQ_CLS, modules_to_save=["classifier"])
    with torch.no_grad():
        tuned.base_model.model.classifier.weight.add_(1.0)
    head = sum(p.numel() for p in plain.classifier.parameters())
    assert tuned.get_nb_trainable_parameters()[0] == bottleneck_parameters([HIDDEN] * 4, 4) + head
    tuned.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path).eval()
    assert torch.equal(logits(again, ids), logits(tuned, ids))
    assert not torch.equal(logits(again, ids), logits(plain, ids))


# --- what is refused


@pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_with_the_reason_and_changes_nothing(tiny_model, call):
    model = adapted(base(tiny_model))
    before = logits(model)
    with pytest.raises(ValueError, match=r"cannot be merged.*non-linearity"):
        getattr(model, call)()
    assert torch.equal(logits(model), before)


def test_a_layer_refuses_to_be_merged():
    with pytest.raises(ValueError, match="cannot be merged"):
        BottleneckLayer(torch.nn.Linear(4, 4), "default", BottleneckConfig()).merge()


def test_unload_gives_the_base_back(tiny_model):
    plain = base(tiny_model)
    names, before = list(plain.state_dict()), logits(plain)
    unloaded = adapted(plain).unload()
    assert list(unloaded.state_dict()) == names
    assert torch.equal(logits(unloaded), before)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"placement": "houlsbey"}, "placement must be one of houlsby, pfeiffer, not 'houlsbey'"),
        ({"non_linearity": "rellu"}, "non_linearity must be one of relu, gelu, silu, tanh, identity, not 'rellu'"),
        ({"reduction_factor": 0}, "reduction_factor must be a number above 0, not 0"),
        ({"reduction_factor": float("nan")}, "reduction_factor must be a number above 0"),
        ({"reduction_factor": "16"}, "reduction_factor must be a number above 0, not '16'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_a_wrong_value_is_answered_with_those_allowed(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        BottleneckConfig(**fields)
