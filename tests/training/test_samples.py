"""Samples as the model learns: what it answers is written down, and the run is as without them."""

import copy
import json

import pytest
import torch
from lessons import curve, done, lesson, same, weights, write_rows
from tiny import make_tiny_chat_model, make_tiny_gpt2

from studio.data import encode_rows, load_conversations
from studio.training.samples import answers, prompts_of

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


def samples(run) -> list[dict]:
    return [e for e in run.events() if e["kind"] == "sample"]


@pytest.fixture
def plan(tiny_model, rows):
    return lambda **settings: lesson(tiny_model, rows, **{"sample_count": 2, "sample_tokens": 4, **settings})


def test_held_out_rows_are_answered_before_the_first_step_and_at_each_measurement(plan):
    run = done(plan())
    told = samples(run)
    assert [(e["step"], e["number"]) for e in told] == [(s, n) for s in (0, 3, 6) for n in (0, 1)]
    assert all(e["prompt"].startswith("What colour is number ") for e in told)
    assert all(isinstance(e["output"], str) for e in told)
    assert {e["prompt"]: e["expected"] for e in told} == {e["prompt"]: e["expected"] for e in told[:2]}
    assert all(e["expected"] for e in told)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": {"kind": "lora", "r": 4, "lora_dropout": 0.3}},
        {"method": {"kind": "full"}},
        {"method": {"kind": "prompt_tuning", "num_virtual_tokens": 4}},
        {"gradient_checkpointing": True, "neftune_noise_alpha": 5},
    ],
    ids=["lora", "dropout", "full", "prompt tuning", "checkpointing and noise"],
)
def test_a_run_with_samples_has_the_weights_of_one_without(plan, settings):
    with_samples, without = done(plan(**settings)), done(plan(**settings, sample_count=0))
    assert len(samples(with_samples)) == 6
    assert samples(without) == []
    assert curve(with_samples) == curve(without)
    assert curve(with_samples, "eval") == curve(without, "eval")
    assert same(weights(with_samples.model_dir), weights(without.model_dir))


def test_the_base_answers_at_step_0_also_where_an_adapter_goes_on(plan):
    first = done(plan(max_steps=2, learning_rate=0.5))
    recipe = plan(max_steps=1)
    fresh = [e["output"] for e in samples(done(recipe)) if e["step"] == 0]
    recipe.model.adapter = first.id
    going_on = [e["output"] for e in samples(done(recipe)) if e["step"] == 0]
    assert going_on == fresh


def test_own_questions_are_asked_in_the_order_given_with_the_system_prompt(plan, tiny_tokenizer):
    recipe = plan(sample_prompts=["Who, and <b>why</b>?", "Two\nlines"], max_steps=1)
    told = samples(done(recipe))
    assert [e["prompt"] for e in told[:2]] == ["Who, and <b>why</b>?", "Two\nlines"]
    assert "expected" not in told[0]
    recipe.data.system_prompt = "Be brief."
    (prompt, _) = prompts_of(recipe, tiny_tokenizer, None)
    assert tiny_tokenizer.decode(prompt.ids).startswith("<|im_start|>system\nBe brief.")


def test_without_held_out_rows_own_questions_are_still_asked(plan):
    recipe = plan(sample_prompts=["Why?"], eval_steps=2)
    recipe.data.holdout = 0
    assert [e["step"] for e in samples(done(recipe))] == [0, 2, 4, 6]


def test_without_held_out_rows_and_questions_there_is_nothing_to_ask(plan):
    recipe = plan(max_steps=1)
    recipe.data.holdout = 0
    assert samples(done(recipe)) == []


def test_the_seed_chooses_the_rows(plan, rows):
    write_rows(rows, 60)

    def asked(**settings):
        return {e["prompt"] for e in samples(done(plan(max_steps=1, **settings)))}

    assert asked(sample_count=3) == asked(sample_count=3)
    assert len(asked(sample_count=3)) == 3


def test_a_batch_of_prompts_is_answered_as_each_alone(tiny_model, tiny_tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    prompts = [tiny_tokenizer(text)["input_ids"] for text in ("What is the capital of France?", "Hi", "one two three")]
    before = torch.get_rng_state()
    together = answers(model, tiny_tokenizer, prompts, 6)
    assert together == [answers(model, tiny_tokenizer, [one], 6)[0] for one in prompts]
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_an_answer_ends_where_the_model_ends_it(tiny_model, tiny_tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = tiny_tokenizer("Hi")["input_ids"]
    first = model.generate(torch.tensor([ids]), max_new_tokens=1, do_sample=False)[0, -1].item()
    model.generation_config.eos_token_id = first
    assert answers(model, tiny_tokenizer, [ids], 6) == [("", False)]
    model.generation_config.eos_token_id = None
    ((_, cut),) = answers(model, tiny_tokenizer, [ids], 1)
    assert cut


def test_data_10_an_answer_ends_where_the_template_ends_a_turn(tiny_model, tiny_tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    made = copy.deepcopy(tiny_tokenizer)
    end = made.convert_tokens_to_ids("<|im_end|>")
    made.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = made.eos_token_id
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(made)).index_fill(0, torch.tensor([end]), 1.0))
    assert answers(model, made, [made("Hi")["input_ids"]], 6) == [("", False)]


@pytest.mark.parametrize(("quantization", "dtype"), [("nf4", "float32"), ("int8", "float32"), ("none", "bfloat16")])
def test_quantised_and_bf16_models_answer_with_checkpointing_on(rows, tmp_path, quantization, dtype):
    model = make_tiny_chat_model(tmp_path / "wide", hidden_size=64)
    recipe = lesson(model, rows, max_steps=2, sample_count=2, sample_tokens=3, gradient_checkpointing=True)
    recipe.model.quantization, recipe.model.dtype = quantization, dtype
    run = done(recipe)
    assert [e["step"] for e in samples(run)] == [0, 0, 2, 2]
    assert not [e for e in run.events() if e["kind"] == "warning"]


def test_a_classifier_is_not_asked(tmp_path, rows):
    model = make_tiny_chat_model(tmp_path / "model")
    path = tmp_path / "texts.jsonl"
    lines = [{"text": f"{'cat' if n % 2 else 'dog'} {n}", "label": "ab"[n % 2]} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = lesson(model, path, max_steps=1, sample_count=2)
    recipe.model.task, recipe.data.max_length = "seq_cls", 32
    assert samples(done(recipe)) == []


def test_plain_text_is_begun_and_gone_on_with(tmp_path):
    from transformers import AutoTokenizer

    model = make_tiny_gpt2(tmp_path / "gpt2")
    path = tmp_path / "text.jsonl"
    lines = [{"text": f"Once upon a time there were {n} kings in a castle."} for n in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = lesson(model, path, max_steps=1, sample_count=1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    conversations = load_conversations(recipe.data)
    held_out, _ = encode_rows(tokenizer, conversations, recipe.data)
    (prompt,) = prompts_of(recipe, tokenizer, held_out, conversations)
    assert "Once upon a time".startswith(prompt.text[:4])
    whole = prompt.text + prompt.expected
    assert whole.startswith("Once upon a time there were")
    assert len(prompt.ids) < len(tokenizer(whole)["input_ids"]) / 2


def test_a_conversation_that_is_trained_on_whole_is_asked_for_its_last_answer(plan, tiny_tokenizer):
    recipe = plan()
    recipe.data.train_on = "all"
    conversations = load_conversations(recipe.data)
    held_out, _ = encode_rows(tiny_tokenizer, conversations, recipe.data)
    for prompt in prompts_of(recipe, tiny_tokenizer, held_out, conversations):
        assert prompt.text.startswith("What colour")
        assert tiny_tokenizer.decode(prompt.ids).endswith("assistant\n")
        assert prompt.expected


def test_a_model_that_cannot_answer_is_trained_without_samples(plan, monkeypatch):
    from studio.training import samples as module

    def answers(*arguments, **options):
        raise RuntimeError("no cache")

    monkeypatch.setattr(module, "answers", answers)
    run = done(plan())
    (warning,) = [e for e in run.events() if e["kind"] == "warning"]
    assert "no cache" in warning["what"]
    assert samples(run) == []


def test_the_time_of_samples_is_not_training_time(plan, monkeypatch):
    from studio.training import samples as module
    from studio.training.event_callback import EventCallback

    told = []
    monkeypatch.setattr(EventCallback, "leave_out", lambda self, seconds: told.append(seconds))
    monkeypatch.setattr(module, "answers", lambda model, tokenizer, prompts, *_, **__: [("x", False)] * len(prompts))
    done(plan())
    assert len(told) == 3
