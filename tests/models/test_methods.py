"""Methods: what is trained, and that an adapter means the same when it is loaded again."""

import pytest

from studio.errors import StudioError
from studio.models.chat import prepare_chat
from studio.models.load import load_model, load_tokenizer
from studio.models.methods import apply_method, count_parameters, training_dtype
from studio.recipe import ModelSpec, Recipe
from studio.recipe.methods import FullMethod, LoraMethod


def lora(**fields):
    return Recipe(method=LoraMethod(kind="lora", **fields))


def base(folder, **fields):
    return load_model(ModelSpec(id=str(folder), **fields), dtype="float32")


def take_steps(model, ids, count=2):
    import torch

    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(count):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def test_full_trains_everything(tiny_model):
    model = apply_method(base(tiny_model), Recipe(method=FullMethod(kind="full")))
    trainable, total = count_parameters(model)
    assert trainable == total == model.num_parameters()


def test_lora_trains_only_its_matrices(tiny_model):
    model = apply_method(base(tiny_model), lora())
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    assert count_parameters(model) == model.get_nb_trainable_parameters()


def test_wrong_target_modules_are_answered_with_the_right_names(tiny_model):
    with pytest.raises(StudioError) as caught:
        apply_method(base(tiny_model), lora(target_modules=["q_proj", "qqq"]))
    assert "qqq" in caught.value.what
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in caught.value.fix
    assert caught.value.field == "method.target_modules"


def test_a_broken_pattern_is_refused(tiny_model):
    with pytest.raises(StudioError, match="regular expression"):
        apply_method(base(tiny_model), lora(target_modules="(("))


def test_full_tuning_takes_float32_and_a_named_format_stays():
    assert training_dtype(Recipe(method=FullMethod(kind="full")), "cpu") == "float32"
    named = Recipe(method=FullMethod(kind="full"), model=ModelSpec(dtype="bfloat16"))
    assert training_dtype(named, "cpu") == "bfloat16"


@pytest.mark.parametrize("name", ["tiny_gpt2", "base_model"])
def test_new_tokens_are_trained_with_the_adapter_and_come_back_with_it(name, request, tmp_path):
    """Saved, and loaded on a freshly prepared base under another seed: the same logits."""
    import torch
    from peft import PeftModel

    folder = request.getfixturevalue(name)
    tokenizer, model = load_tokenizer(folder), base(folder)
    notes = prepare_chat(tokenizer, model)
    tuned = apply_method(model, lora(r=4), notes.new_token_ids)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello 42"}], return_tensors="pt")["input_ids"]
    before = tuned(ids).logits.detach()
    take_steps(tuned, ids)
    tuned.eval()
    after = tuned(ids).logits.detach()
    assert not torch.allclose(before, after, atol=1e-3)
    tuned.save_pretrained(tmp_path / "adapter")

    torch.manual_seed(99)
    fresh = base(folder)
    prepare_chat(load_tokenizer(folder), fresh)
    again = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    assert torch.allclose(again(ids).logits, after, atol=1e-5)


def test_rows_of_new_tokens_change_and_old_rows_do_not(tiny_gpt2):
    import torch

    tokenizer, model = load_tokenizer(tiny_gpt2), base(tiny_gpt2)
    notes = prepare_chat(tokenizer, model)
    old = model.get_input_embeddings().weight.detach().clone()
    tuned = apply_method(model, lora(r=4), notes.new_token_ids)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], return_tensors="pt")["input_ids"]
    take_steps(tuned, ids)
    rows = tuned.merge_and_unload().get_input_embeddings().weight
    new = list(notes.new_token_ids)
    assert torch.equal(rows[: new[0]], old[: new[0]])
    assert not torch.equal(rows[new], old[new])


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_weights_train_lora_also_after_an_evaluation(tmp_path, quantization):
    """bitsandbytes repacks 4-bit weights in the first evaluation on some CPUs, and loses gradients from then on."""
    import torch
    from tiny import make_tiny_chat_model

    folder = make_tiny_chat_model(tmp_path / "m", hidden_size=64)
    recipe = Recipe(model=ModelSpec(id=str(folder), quantization=quantization))
    model = apply_method(load_model(recipe.model, dtype="float32"), recipe)
    assert not model.is_gradient_checkpointing
    ids = torch.arange(10, 40).view(1, -1)

    def gradients():
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    first = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    again = gradients()
    assert any("layers.0" in n and g.abs().max() > 0 for n, g in first.items())
    assert all(torch.allclose(first[n], again[n], atol=1e-6) for n in first)
    assert take_steps(model, ids, 6) < take_steps(base(folder), ids, 1)
