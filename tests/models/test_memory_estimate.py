"""The estimate: parameters to the last one, memory to about a fifth."""

import json
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest

from benchmarks import memory_estimate
from studio.errors import StudioError
from studio.models.headers import read_config
from studio.models.machine import machine_memory
from studio.models.memory_estimate import HALF_KERNELS, HEAP, estimate, largest
from studio.models.shapes import shapes_of
from studio.recipe import ModelSpec, Recipe, TrainSpec
from studio.recipe.methods import METHODS, FullMethod, LoraMethod

ROOT = Path(__file__).resolve().parent.parent.parent
OPTIMIZERS = get_args(TrainSpec.model_fields["optim"].annotation)

SMOLLM2 = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "pad_token_id": None,
}


LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
# (method, family): each is trained once in float32 and once in bfloat16
KEPT = [
    ({"kind": "full"}, "llama"),
    ({"kind": "lora", "r": 3}, "llama"),
    ({"kind": "lora", "r": 3, "lora_dropout": 0.1}, "llama"),
    ({"kind": "lora", "r": 3, "use_dora": True}, "llama"),
    ({"kind": "lora", "r": 3, "use_dora": True, "lora_dropout": 0.1}, "llama"),
    ({"kind": "lora", "r": 3, "target_modules": ["q_proj", "down_proj"]}, "llama"),
    ({"kind": "lora", "r": 3, "modules_to_save": ["lm_head", "up_proj"]}, "llama"),
    ({"kind": "adalora"}, "llama"),
    ({"kind": "ia3"}, "llama"),
    ({"kind": "prompt_tuning"}, "llama"),
    ({"kind": "p_tuning"}, "llama"),
    ({"kind": "prefix_tuning"}, "llama"),
    ({"kind": "loha", "r": 3}, "llama"),
    ({"kind": "lokr", "r": 3}, "llama"),
    ({"kind": "oft", "oft_block_size": 4}, "llama"),
    ({"kind": "boft", "boft_block_size": 4}, "llama"),
    ({"kind": "vera", "r": 5}, "llama"),
    ({"kind": "hra", "r": 4}, "llama"),
    ({"kind": "ln_tuning"}, "llama"),
    ({"kind": "bottleneck"}, "llama"),
    ({"kind": "bottleneck", "placement": "pfeiffer", "non_linearity": "silu", "dropout": 0.1}, "llama"),
    ({"kind": "full"}, "gpt2"),
    ({"kind": "lora", "r": 3}, "gpt2"),
    ({"kind": "full"}, "gpt_neox"),
    ({"kind": "lora", "r": 3}, "qwen3"),
    ({"kind": "full"}, "gemma2"),
    ({"kind": "full"}, "olmo2"),
    ({"kind": "lora", "r": 3}, "phi3"),
]


def lora(**fields):
    return Recipe(method=LoraMethod(kind="lora", **fields))


def recipe_of(method, **sections):
    recipe = Recipe.parse({"method": method, **sections})
    assert not recipe._problems
    return recipe


def peft_count(model, recipe, new_token_ids=()):
    from studio.models.methods import apply_method

    return apply_method(model, recipe, new_token_ids).get_nb_trainable_parameters()


def on_meta(family, **values):
    """A model without memory, and its config.json as a dict."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return model, json.loads(config.to_json_string(use_diff=False))


def test_smollm2_lora_has_exactly_pefts_count():
    model, _ = on_meta(**{"family": SMOLLM2["model_type"]}, **{k: v for k, v in SMOLLM2.items() if k != "model_type"})
    found = estimate(Recipe(), SMOLLM2)
    assert (found.trainable_parameters, found.total_parameters) == peft_count(model, Recipe())
    assert found.trainable_parameters == 4_884_480


@pytest.mark.parametrize("name", ["tiny_model", "tiny_gpt2"])
@pytest.mark.parametrize("r", [1, 16])
def test_a_loaded_tiny_model_has_exactly_pefts_count(name, r, request):
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(name)
    found = estimate(lora(r=r), read_config(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (found.trainable_parameters, found.total_parameters) == peft_count(model, lora(r=r))


def test_tokens_added_for_chatml_are_counted(tiny_gpt2):
    from studio.models.chat import prepare_chat
    from studio.models.load import load_model, load_tokenizer

    model = load_model(ModelSpec(id=str(tiny_gpt2)), dtype="float32")
    notes = prepare_chat(load_tokenizer(tiny_gpt2), model)
    found = estimate(lora(), read_config(tiny_gpt2), new_tokens=len(notes.new_token_ids))
    counted = peft_count(model, lora(), notes.new_token_ids)
    assert (found.trainable_parameters, found.total_parameters) == counted


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2"]
)
def test_families_are_counted_exactly(family):
    model, config = on_meta(family, **SMALL)
    assert shapes_of(config).total == model.num_parameters()
    assert estimate(lora(), config).trainable_parameters == peft_count(model, lora())[0]


def test_gpt_neox_is_counted_exactly():
    values = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
    model, config = on_meta("gpt_neox", **values)
    assert shapes_of(config).total == model.num_parameters()
    assert estimate(lora(), config).trainable_parameters == peft_count(model, lora())[0]


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["mlp.down_proj"], r".*layers\.0\.self_attn\..*"])
def test_named_targets_are_counted_as_peft_counts_them(targets):
    model, config = on_meta("llama", **SMALL)
    recipe = lora(target_modules=targets)
    assert estimate(recipe, config).trainable_parameters == peft_count(model, recipe)[0]


def test_full_tuning_trains_all():
    found = estimate(Recipe(method=FullMethod(kind="full")), SMOLLM2)
    assert found.trainable_parameters == found.total_parameters == 134_515_008


def test_the_total_is_the_sum():
    memory = dict(estimate(Recipe(), SMOLLM2).memory_bytes)
    assert memory.pop("total") == sum(memory.values())
    assert list(memory) == ["weights", "adapters", "gradients", "optimizer", "activations", "context"]


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_and_optimizer_is_estimated_in_milliseconds(kind):
    for optim in OPTIMIZERS:
        recipe = recipe_of({"kind": kind}, train={"optim": optim})
        for device in ("cpu", "cuda"):
            start = time.perf_counter()
            memory = dict(estimate(recipe, LLAMA_2_7B, device=device).memory_bytes)
            assert time.perf_counter() - start < 0.2
            assert all(type(size) is int and size >= 0 for size in memory.values())
            assert memory["gradients"] > 0
            held = HEAP * (memory["gradients"] + memory["activations"])
            assert memory["context"] == (500_000_000 if device == "cuda" else pytest.approx(held, abs=2))
            assert memory.pop("total") == sum(memory.values())


@pytest.mark.parametrize(
    ("batch", "taken"), [(1, 473_247_744), (4, 699_256_832)], ids=["loading is largest", "a step is largest"]
)
def test_page_14_bottleneck_adapters_on_nf4_are_estimated_to_a_quarter(batch, taken):
    """``taken`` is what runs of six steps on the support tickets reported (docs/memory.md)."""
    recipe = recipe_of(
        {"kind": "bottleneck"}, model={"quantization": "nf4"}, train={"per_device_train_batch_size": batch}
    )
    total = estimate(recipe, SMOLLM2, dtype="float32", length=105).memory_bytes["total"]
    assert total == pytest.approx(taken, rel=0.25)


def test_page_14_a_classifier_in_half_precision_keeps_kernels_for_each_width():
    def context(task, dtype):
        recipe = recipe_of({"kind": "lora"}, model={"task": task}, data={"max_length": 64})
        memory = estimate(recipe, SMOLLM2, dtype=dtype).memory_bytes
        return memory["context"] - HEAP * (memory["gradients"] + memory["activations"])

    assert context("seq_cls", "bfloat16") == pytest.approx(HALF_KERNELS, abs=2)
    assert context("seq_cls", "float32") == pytest.approx(0, abs=2)
    assert context("causal_lm", "bfloat16") == pytest.approx(0, abs=2)


def test_nothing_heavy_is_imported():
    code = """
import sys
from studio.models.memory_estimate import HEAP, estimate, largest
from studio.recipe import Recipe
config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100}
estimate(Recipe(), config), largest(Recipe(), config, 10**9)
print([name for name in ("torch", "transformers", "peft") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def recorded():
    """The rows of docs/memory.md that the benchmark printed: predicted and measured megabytes."""
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    return [
        (int(a), int(b)) for a, b in re.findall(r"^\|.*\| (\d+) MB \| (\d+) MB \| \d\.\d\d \|.*$", text, re.MULTILINE)
    ]


def test_every_recipe_is_recorded():
    assert len(recorded()) == len(memory_estimate.RECIPES) == 15


@pytest.mark.parametrize("number", range(15), ids=map(memory_estimate.described, memory_estimate.RECIPES))
def test_memory_is_within_a_quarter_of_what_was_measured(number):
    written, measured = recorded()[number]
    recipe = memory_estimate.recipe_of(memory_estimate.RECIPES[number])
    total = estimate(recipe, SMOLLM2).memory_bytes["total"] / 1e6
    assert abs(total - written) <= max(1, 0.01 * written)  # the page says what is predicted today
    assert abs(total - measured) / measured < 0.25


def kept_by_autograd(config, method, dtype, padded, batch, length, fused):
    """Bytes of all tensors that the graph holds after a forward pass, each storage once, without the model's own."""
    import weakref

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from studio.models.labelled_loss import LabelledLoss
    from studio.models.methods import apply_method
    from studio.training.acceleration.fused_layers import FusedLayers
    from studio.training.acceleration.fused_lora import fuse_lora

    class Holder:
        def __init__(self, tensor):
            self.tensor = tensor

    holders = []

    def pack(tensor):
        holder = Holder(tensor)
        holders.append(weakref.ref(holder))
        return holder

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).to(getattr(torch, dtype))
    model = apply_method(model, recipe_of(method))
    if method["kind"] == "lora" and fused:
        fuse_lora(model)
    model.train()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    ids = torch.randint(5, config["vocab_size"], (batch, length))
    mask = torch.ones_like(ids)
    mask[0, length - padded :] = 0
    saved = torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor)
    with FusedLayers(model).in_place() if fused else nullcontext(), saved:
        loss, _ = LabelledLoss(model, one_row=False)(ids, mask, ids)
    storages = [ref().tensor.untyped_storage() for ref in holders if ref() is not None]
    assert loss.requires_grad
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in own}.values())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("method", "family"), KEPT, ids=[f"{f} {json.dumps(m)[10:-1]}" for m, f in KEPT])
def test_a_block_keeps_what_autograd_keeps_of_it(method, family, dtype, fused):
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 112, "vocab_size": 500}
    if family == "gpt2":
        sizes = {"n_embd": 64, "n_head": 4, "vocab_size": 500}
    elif family != "gpt_neox":
        sizes |= {"num_key_value_heads": 2, "head_dim": 12, "pad_token_id": None}
    batch, length, found, truth = 2, 24, [], []
    padded = 3 if dtype == "bfloat16" else 0  # a batch with padding takes no mask either
    # gradients that are added up are there all the time, so activations are what is kept and the head's work
    train = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": batch, "fused_passes": fused}
    recipe = recipe_of(method, train=train, data={"holdout": 0})
    for layers in (2, 3):
        config = {"model_type": family, **sizes, "n_layer" if family == "gpt2" else "num_hidden_layers": layers}
        memory = estimate(recipe, config, dtype=dtype, length=length).memory_bytes
        found.append(memory["activations"])
        truth.append(kept_by_autograd(config, method, dtype, padded, batch, length, fused))
    assert found[1] - found[0] == pytest.approx(truth[1] - truth[0], rel=0.03)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["full", "freeze", "lora", "loha", "hra", "bottleneck"])
def test_the_worst_moment_is_the_allocators(kind, checkpointing):
    import torch
    from torch.profiler import profile
    from transformers import AutoConfig, AutoModelForCausalLM

    from studio.models.labelled_loss import LabelledLoss
    from studio.models.methods import apply_method
    from studio.training.acceleration.fused_layers import FusedLayers
    from studio.training.acceleration.fused_lora import fuse_lora

    config = SMALL | {"model_type": "llama", "hidden_size": 64, "vocab_size": 3000}
    batch, length = 2, 96
    train = {"gradient_checkpointing": checkpointing, "per_device_train_batch_size": batch}
    recipe = recipe_of({"kind": kind}, train=train, data={"holdout": 0})
    model = apply_method(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)), recipe)
    if kind == "lora":
        fuse_lora(model)
    if checkpointing:
        model.activation_checkpointing_enable() if kind in ("full", "freeze") else _checkpointed(model)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    loss_of = LabelledLoss(model, one_row=False)
    ids = torch.randint(5, 3000, (batch, length))

    layers = FusedLayers(model)

    def step():
        with layers.in_place():
            loss_of(ids, torch.ones_like(ids), ids)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(profile_memory=True) as seen:
        step()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = worst = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        worst = max(worst, held)
    memory = estimate(recipe, config, length=length).memory_bytes
    assert memory["activations"] + memory["gradients"] == pytest.approx(worst, rel=0.06)


def _checkpointed(model):
    model.get_base_model().activation_checkpointing_enable()
    model.enable_input_require_grads()


@pytest.mark.parametrize(
    ("method", "model", "public"),
    [  # of LLaMA-Factory's README, for models of 7B; docs/memory.md says where the two differ
        ({"kind": "full"}, {"dtype": "float32"}, 120),
        ({"kind": "full"}, {"dtype": "bfloat16"}, 60),
        ({"kind": "freeze"}, {"dtype": "bfloat16"}, 16),
        ({"kind": "lora"}, {"dtype": "bfloat16"}, 16),
        ({"kind": "lora"}, {"quantization": "int8"}, 10),
        ({"kind": "lora"}, {"quantization": "nf4"}, 6),
    ],
)
def test_a_7b_model_takes_about_what_a_public_table_says(method, model, public):
    train = {"per_device_train_batch_size": 1, "gradient_checkpointing": True}
    recipe = recipe_of(method, model=model, train=train, data={"holdout": 0})
    found = estimate(recipe, LLAMA_2_7B, device="cuda", length=512).memory_bytes["total"] / 1e9
    assert public / 1.25 < found < public * 1.25


@pytest.mark.parametrize("kind", ["lora", "full", "prefix_tuning", "hra"])
@pytest.mark.parametrize("gigabytes", [1, 4, 24])
def test_the_largest_batch_and_length_fit_and_one_more_does_not(kind, gigabytes):
    recipe, room = recipe_of({"kind": kind}), gigabytes * 10**9

    def total(batch, length):
        train = recipe.train.model_copy(update={"per_device_train_batch_size": batch})
        return estimate(recipe.model_copy(update={"train": train}), SMOLLM2, length=length).memory_bytes["total"]

    found = largest(recipe, SMOLLM2, room)
    batch, length, rows = found["batch"], found["length"], recipe.train.per_device_train_batch_size
    if batch is None:
        assert total(1, 512) > room
    else:
        assert total(batch, 512) <= room < total(batch + 1, 512)
    if length is None:
        assert total(rows, 8) > room
    else:
        assert total(rows, length) <= room
        assert length == 8192 or total(rows, length + 1) > room


def test_nothing_fits_into_nothing():
    assert largest(Recipe(), SMOLLM2, 0) == {"batch": None, "length": None}
    assert largest(Recipe(), SMOLLM2, 10**15)["length"] == SMOLLM2["max_position_embeddings"]


def test_optimizers_keep_what_they_keep():
    def state(optim, method=None):
        recipe = recipe_of(method or {"kind": "full"}, train={"optim": optim})
        return estimate(recipe, SMOLLM2, dtype="float32").memory_bytes["optimizer"]

    numbers, table = 134_515_008, 49152 * 576
    assert state("adamw_torch") == state("adamw_torch_fused") == state("paged_adamw_32bit") == 8 * numbers
    assert state("lion_32bit") == state("paged_lion_32bit") == 4 * numbers
    assert state("sgd") == 0
    # the embedding stays in 32 bits
    assert (
        state("adamw_8bit") == state("paged_adamw_8bit") == pytest.approx(2 * (numbers - table) + 8 * table, rel=0.02)
    )
    assert state("lion_8bit") == state("paged_lion_8bit") == pytest.approx(state("adamw_8bit") / 2, rel=0.01)
    assert state("adafactor") < 0.01 * state("adamw_torch")
    assert state("galore_adamw") == state("apollo_adamw") < 0.7 * state("adamw_torch")
    lora, adalora = {"kind": "lora", "r": 12}, {"kind": "adalora"}
    assert state("sgd", adalora) > state("adamw_torch", lora)  # three numbers of its own for each


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit", "adafactor", "lion_32bit", "lion_8bit", "sgd"])
def test_the_optimizers_state_is_as_large_as_computed(optim, tmp_path):
    import torch
    from tiny import make_tiny_chat_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    folder = make_tiny_chat_model(tmp_path / "m", hidden_size=64)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(str(tmp_path), optim=optim), model)
    optimizer = kind(model.parameters(), **options)
    if "8bit" in optim:
        import bitsandbytes

        manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
        manager.register_module_override(model.get_input_embeddings(), "weight", {"optim_bits": 32})
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    states = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor) and t.dim()]
    storages = {t.data_ptr(): t.untyped_storage().nbytes() for t in states if t.numel() != 256}  # a shared table of 256
    recipe = recipe_of({"kind": "full"}, train={"optim": optim})
    found = estimate(recipe, read_config(folder), dtype="float32").memory_bytes["optimizer"]
    assert found == pytest.approx(sum(storages.values()), rel=0.02)


def test_a_large_validation_batch_is_the_worst_moment():
    def found(**fields):
        train = {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "per_device_eval_batch_size": 32}
        recipe = recipe_of({"kind": "lora"}, train=train, **fields)
        return estimate(recipe, SMOLLM2, dtype="float32", length=1000)

    validated, not_validated = found(), found(data={"holdout": 0})
    block = 32 * 1000 * 4 * (3 * SMOLLM2["intermediate_size"] + 2 * SMOLLM2["hidden_size"])  # more than the logits
    assert validated.memory_bytes["activations"] + validated.memory_bytes["gradients"] == block
    assert not_validated.memory_bytes["activations"] < block
    assert "Validation" in validated.notes[0] and not not_validated.notes


def test_methods_need_what_they_rebuild_and_no_more():
    def activations(method, **train):
        train = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, **train}
        recipe = recipe_of(method, train=train)
        return estimate(recipe, SMOLLM2, dtype="float32", length=8).memory_bytes["activations"]

    lora = activations({"kind": "lora"})
    for kind in ("loha", "lokr"):  # matrices of the size of the weights, for any number of tokens
        assert activations({"kind": kind}) > lora + 30 * 3_500_000 * 4
    for kind in ("oft", "vera", "boft", "hra"):  # these work on the activations
        assert activations({"kind": kind}) < lora + 30 * 3_500_000
    assert activations({"kind": "loha"}, gradient_checkpointing=True) < activations({"kind": "loha"}) / 10
    assert activations({"kind": "prompt_tuning", "num_virtual_tokens": 500}) > 10 * lora


def test_freezing_keeps_activations_from_the_first_trained_block_on():
    def memory(**fields):
        recipe = recipe_of({"kind": "freeze", **fields})
        return estimate(recipe, SMOLLM2, dtype="float32", length=2048).memory_bytes

    few, more = memory(num_trainable_layers=2), memory(num_trainable_layers=4)
    assert more["gradients"] == 2 * few["gradients"]
    first = memory(num_trainable_layers=0, trainable_modules=["layers.0.mlp"])
    of_block = (more["activations"] - few["activations"]) / 2
    # gradients go through all blocks; one that is not trained itself does not keep what its matrices read
    assert 0.6 < (first["activations"] - more["activations"]) / (26 * of_block) < 1
    head = memory(num_trainable_layers=0, trainable_modules=["norm"])
    assert head["activations"] < few["activations"]


def test_adapters_are_float32_beside_a_short_base_and_short_beside_a_quantised_one():
    found = estimate(Recipe(), SMOLLM2, dtype="bfloat16")
    assert found.memory_bytes["adapters"] == 4 * found.trainable_parameters
    assert found.memory_bytes["weights"] == 2 * (found.total_parameters - found.trainable_parameters)
    quantised = estimate(recipe_of({"kind": "lora"}, model={"quantization": "nf4"}), SMOLLM2)
    assert quantised.memory_bytes["adapters"] == 2 * found.trainable_parameters
    norms = estimate(recipe_of({"kind": "ln_tuning"}), SMOLLM2, dtype="bfloat16")
    assert norms.memory_bytes["adapters"] == 2 * norms.trainable_parameters


def test_double_quantisation_saves_four_tenths_of_a_bit():
    def weights(**model):
        return estimate(recipe_of({"kind": "lora"}, model=model), LLAMA_2_7B).memory_bytes["weights"]

    once = weights(quantization="nf4", double_quantization=False)
    twice = weights(quantization="nf4")
    assert weights(quantization="fp4") == twice
    assert (once - twice) * 8 / shapes_of(LLAMA_2_7B).matrices == pytest.approx(0.37, abs=0.01)


def test_checkpointing_and_quantisation_save_memory():
    plain = estimate(Recipe(), SMOLLM2).memory_bytes
    checkpointed = estimate(Recipe(train=TrainSpec(gradient_checkpointing=True)), SMOLLM2).memory_bytes
    quantised = estimate(Recipe(model=ModelSpec(quantization="nf4")), SMOLLM2).memory_bytes
    assert checkpointed["activations"] < plain["activations"]
    assert quantised["weights"] < plain["weights"]


def test_quantised_weights_are_as_large_as_computed(tmp_path):
    from tiny import make_tiny_chat_model

    from studio.models.load import load_model

    folder = make_tiny_chat_model(tmp_path / "m", hidden_size=128)
    spec = ModelSpec(id=str(folder), quantization="int8")
    model = load_model(spec, dtype="float32")
    found = estimate(Recipe(model=spec), read_config(folder)).memory_bytes["weights"]
    assert abs(found - model.get_memory_footprint()) / found < 0.05


def test_an_unknown_architecture_is_estimated_from_its_files_with_a_note(tiny_model, tmp_path):
    config = read_config(tiny_model) | {"model_type": "unheard-of"}
    known = estimate(lora(), read_config(tiny_model))
    found = estimate(lora(), config, folder=tiny_model)
    assert found.trainable_parameters == known.trainable_parameters
    assert found.total_parameters == known.total_parameters
    assert "rough" in found.notes[0]


def test_an_unknown_architecture_without_files_cannot_be_estimated():
    with pytest.raises(StudioError, match="cannot be estimated"):
        estimate(lora(), {"model_type": "unheard-of"})


def test_the_machine_has_memory():
    found = machine_memory()
    assert 0 < found["free_bytes"] <= found["total_bytes"]
    assert found["device"]
