"""What only a CUDA GPU shows: half precision, quantised kernels, the memory estimate, and running out of memory.

python -m pytest -n 0 -m gpu tests/gpu
"""

import importlib.util

import pytest
import torch
from lessons import curve, done, lesson, write_rows
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from studio.models.head import LabelledLogits
from studio.models.labelled_loss import LabelledLoss
from studio.recipe import Recipe
from studio.training.acceleration.compiled import CompiledLayers
from studio.training.acceleration.fused_lora import fuse_lora
from studio.training.acceleration.layer_choices import choose_attention, choose_kernels
from studio.training.choices import Choices

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("home"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]


@pytest.fixture(scope="module")
def middling(tmp_path_factory, tiny_model):
    """Random weights that are large enough for the estimate to be about them: 124 million, of which 25 are the head."""
    folder = tmp_path_factory.mktemp("middling")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=14,
        num_attention_heads=12,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def on_gpu(model, rows, *, base=None, method=None, **train) -> Recipe:
    recipe = lesson(model, rows, method=method, **{"device": "cuda", **train})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "auto", **(base or {})})})


def started(run):
    return next(event for event in run.events() if event["kind"] == "started")


@pytest.mark.parametrize("method", [{"kind": "lora"}, {"kind": "lora", "use_dora": True}, {"kind": "full"}])
def test_a_run_learns_on_the_gpu(tiny_model, tmp_path, method):
    run = done(on_gpu(tiny_model, write_rows(tmp_path / "rows.jsonl"), method=method, max_steps=30))
    losses = [loss for _, loss in curve(run)]
    assert losses[-1] < losses[0]
    chosen = {one["what"]: one["chosen"] for one in started(run)["choices"]}
    assert chosen["dtype"] == ("float32" if method["kind"] == "full" else "bfloat16")
    assert run.events()[-1]["peak_memory_bytes"] > 0


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_a_quantised_base_learns(middling, tmp_path, quantization):
    rows = write_rows(tmp_path / "rows.jsonl")
    run = done(on_gpu(middling, rows, base={"quantization": quantization}, max_steps=20))
    losses = [loss for _, loss in curve(run)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("method", "quantization"),
    [({"kind": "lora", "r": 16}, "none"), ({"kind": "lora", "r": 16}, "nf4"), ({"kind": "full"}, "none")],
)
def test_the_estimate_is_within_a_tenth_of_what_the_allocator_gave(
    middling, tmp_path, method, quantization, checkpointing
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join('{"prompt": "Count.", "completion": "%s"}\n' % ("seven words more " * 300) for _ in range(16))
    )
    recipe = on_gpu(
        middling,
        rows,
        base={"quantization": quantization},
        method=method,
        max_steps=4,
        per_device_train_batch_size=8,
        gradient_checkpointing=checkpointing,
        eval_steps=0,
    )
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 1024})})
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run = done(recipe)
    taken = torch.cuda.max_memory_allocated() - before
    assert started(run)["estimated_memory_bytes"] == pytest.approx(taken, rel=0.1)


def test_out_of_memory_is_told_and_the_next_run_works(middling, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 64)
    run = done(on_gpu(middling, rows, memory_limit_gb=0.3, checkpoint_when_needed=False), "failed")
    failed = run.events()[-1]
    assert failed["reason"] == "out_of_memory" and "GPU" in failed["what"]
    torch.cuda.set_per_process_memory_fraction(1.0)
    done(on_gpu(middling, rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_in_blocks_is_that_of_the_logits(middling, dtype):
    model = AutoModelForCausalLM.from_pretrained(middling, dtype=dtype).cuda()
    ids = torch.randint(5, 30_000, (4, 300), device="cuda")
    labels = ids.clone()
    labels[:, :100] = -100
    found = []
    for both in (LabelledLogits(model), LabelledLoss(model)):
        model.zero_grad()
        out = both(ids, torch.ones_like(ids), labels)
        loss = functional.cross_entropy(out[0].float(), out[1], reduction="sum") if len(out) == 3 else out[0]
        loss.backward()
        found.append((loss.item(), model.model.layers[0].mlp.up_proj.weight.grad.float()))
    (one, gradient), (other, others) = found
    near = 1e-4 if dtype == torch.float32 else 2e-2
    assert other == pytest.approx(one, rel=near)
    assert (gradient - others).norm() < near * gradient.norm()


@pytest.mark.parametrize("dora", [False, True])
def test_the_fused_lora_pass_has_pefts_gradients(middling, dora):
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(middling, dtype=torch.bfloat16).cuda()
        config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, use_dora=dora)
        model = get_peft_model(model, config).train()
        assert not fused or fuse_lora(model)
        ids = torch.arange(5, 205, device="cuda").view(2, 100)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found.append([p.grad.float() for p in model.parameters() if p.grad is not None])
    assert found[0]
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 0.1 * one.norm() + 1e-5


def test_kernels_that_are_installed_are_taken_and_agree(middling):
    model = AutoModelForCausalLM.from_pretrained(middling, dtype=torch.bfloat16).cuda()
    choices = Choices()
    choose_kernels(choices, Recipe(), model, "cuda")  # raises where the answers differ
    assert (choices.chosen("Liger kernels") == "on") is (importlib.util.find_spec("liger_kernel") is not None)
    choose_attention(choices, Recipe(), model, "cuda")
    assert choices.chosen("attention") in ("sdpa", "flash_attention_2")


def test_compiled_layers_give_the_same_loss(middling):
    model = AutoModelForCausalLM.from_pretrained(middling, dtype=torch.bfloat16).cuda().train()
    ids = torch.arange(5, 517)[None].repeat(4, 1).cuda()
    usual = model(input_ids=ids, labels=ids, use_cache=False).loss
    CompiledLayers(model).compile()
    torch.testing.assert_close(model(input_ids=ids, labels=ids, use_cache=False).loss, usual, rtol=2e-2, atol=2e-2)
