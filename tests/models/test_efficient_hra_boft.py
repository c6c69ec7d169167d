"""HRA and BOFT by turning the inputs are what PEFT computes with whole matrices, in value and gradient."""

import copy

import pytest
import torch
from peft import BOFTConfig, HRAConfig, get_peft_model
from transformers import AutoModelForCausalLM

from studio.models.efficient_hra_boft import turn_inputs

CONFIGS = {
    "hra": HRAConfig(r=4, target_modules="all-linear"),
    "hra, odd": HRAConfig(r=3, target_modules="all-linear"),
    "boft": BOFTConfig(boft_block_size=4, target_modules="all-linear"),
    "boft, two blocks": BOFTConfig(boft_block_size=0, boft_block_num=2, target_modules=["q_proj", "down_proj"]),
}


def tuned(folder, config, **options):
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "hra_u" in name or "boft_" in name:  # what they begin with changes nothing
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def step(model):
    torch.manual_seed(1)
    ids = torch.randint(0, 300, (2, 7))
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_equal_those_of_peft(tiny_model, name):
    plain = tuned(tiny_model, CONFIGS[name]).train()
    turned = copy.deepcopy(plain)
    assert turn_inputs(turned) > 0
    wanted, wanted_gradients = step(plain)
    given, gradients = step(turned)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == wanted_gradients.keys()
    for each, gradient in wanted_gradients.items():
        torch.testing.assert_close(gradients[each], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


def test_a_butterfly_of_several_factors_is_multiplied_out_in_order(tiny_model):
    """PEFT makes several only with its CUDA kernel, so they are put in by hand."""
    from peft.tuners.boft.layer import Linear

    model = tuned(tiny_model, CONFIGS["boft"])
    layer = next(m for m in model.modules() if type(m) is Linear)
    size, blocks = 4, layer.in_features // 4
    orders = [layer.block_butterfly_perm(layer.in_features, blocks // 2**i, size // 2, 1) for i in range(2)]
    layer.boft_P = torch.stack([layer.perm2mat(order) for order in orders])
    layer.boft_R["default"] = torch.nn.Parameter(torch.randn(2, blocks, size, size) * 0.3)
    turns = layer.cayley_batch(layer.boft_R["default"].view(-1, size, size)).view(2, blocks, size, size)
    factors = [p @ torch.block_diag(*t) @ p.T for p, t in zip(layer.boft_P, turns, strict=True)]
    x = torch.randn(5, layer.in_features)
    wanted = (x @ (factors[1] @ factors[0])) @ layer.base_layer.weight.T * layer.boft_s["default"].squeeze(-1)
    turn_inputs(layer)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hra", "boft"])
def test_two_active_adapters_are_both_there_and_off_is_off(tiny_model, name):
    model = tuned(tiny_model, CONFIGS[name], adapter_name="one")
    model.add_adapter("two", CONFIGS[name])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".two" in key:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.base_model.set_adapter(["one", "two"])
    model.eval()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        turn_inputs(model)
        torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()(input_ids=ids).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, base)


@pytest.mark.parametrize("name", ["hra", "boft"])
def test_merged_it_is_left_to_peft(tiny_model, name):
    model = tuned(tiny_model, CONFIGS[name]).eval()
    turn_inputs(model)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        torch.testing.assert_close(model.merge_and_unload()(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hra", "boft"])
def test_nothing_as_wide_as_a_layer_is_made(tiny_model, name):
    model = tuned(tiny_model, CONFIGS[name])
    turn_inputs(model)
    widths = {m.in_features for m in model.modules() if hasattr(m, "base_layer")}
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            found = function(*arguments, **(options or {}))
            if isinstance(found, torch.Tensor):
                made.append(tuple(found.shape))
            return found

    with torch.no_grad(), Watch():
        model(input_ids=torch.arange(9)[None])
    own = {tuple(m.base_layer.weight.shape)[::-1] for m in model.modules() if hasattr(m, "base_layer")}  # F.linear's
    assert made and not [s for s in made if s[-2:] in {(w, w) for w in widths} - own]
