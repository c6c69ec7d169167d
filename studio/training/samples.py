"""What the model answers while it learns: a few prompts at each measurement, beside what the base said.

It leaves the run as it is: greedy decoding draws no random number, the weights are read only, and the time is not
counted as training time.
"""

from __future__ import annotations

import random
import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, TrainerCallback

from studio.data import Encoded
from studio.data.encode import IGNORE, encode_prompt
from studio.data.stops import stop_ids
from studio.models.head import contiguous_head_input
from studio.recipe import DataSpec, Recipe
from studio.recipe.methods import TAKEN_STARTS
from studio.runs import EventLog, Run

_TEXT_SHARE, _TEXT_TOKENS = 3, 64  # of plain text the first third is given, and at most so many tokens


@dataclass(frozen=True)
class Prompt:
    """``text`` for people, ``ids`` for the model (up to where its answer begins), ``expected`` if the data has it."""

    text: str
    ids: list[int]
    expected: str | None = None


def prompts_of(recipe: Recipe, tokenizer: Any, held_out: list[Encoded] | None, rows: Any = None) -> list[Prompt]:
    """What is asked: the recipe's ``train.sample_prompts``, or held-out rows that the seed chooses.

    A held-out row is asked up to where its loss begins, with the tokens of the training; plain text is begun.

    Args:
        rows: the rows of ``held_out`` and perhaps more, as ``load_conversations`` has them: what was said in words.
    """
    spec = recipe.train
    if recipe.model.task == "seq_cls":
        return []
    if spec.sample_prompts:
        system = recipe.data.system_prompt
        before = [{"role": "system", "content": system}] if system else []
        asked = ([*before, {"role": "user", "content": text}] for text in spec.sample_prompts)
        return [_asked(tokenizer, messages, recipe.data) for messages in asked]
    every = range(len(held_out or []))
    chosen = [held_out[i] for i in sorted(random.Random(spec.seed).sample(every, min(spec.sample_count, len(every))))]
    wanted = {example.row for example in chosen}
    known = {row["row"]: row for row in (rows if chosen and rows is not None else []) if row["row"] in wanted}
    return [_of_row(tokenizer, example, known.get(example.row, {}), recipe.data) for example in chosen]


def _asked(tokenizer: Any, messages: list[dict], data: DataSpec, tools: list[dict] | None = None) -> Prompt:
    ids = encode_prompt(tokenizer, messages, tools=tools, special_tokens_in_text=data.special_tokens_in_text)
    return Prompt(_question(messages), ids)


def _question(messages: list[dict]) -> str:
    """What the user said last."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")


def _of_row(tokenizer: Any, example: Encoded, row: dict[str, Any], data: DataSpec) -> Prompt:
    ids, labels, messages = example.input_ids, example.labels, row.get("messages") or []
    if example.turn is not None:
        messages = messages[: example.turn + 1]
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if answers and data.train_on == "all" and example.turn is None:
        last = answers[-1]
        asked = _asked(tokenizer, messages[:last], data, row.get("tools"))
        return Prompt(asked.text, asked.ids, messages[last]["content"])
    first = next((i for i, label in enumerate(labels) if label != IGNORE), 0)
    if first < 2:  # text: every token carries loss
        first, end = max(1, min(_TEXT_TOKENS, len(ids) // _TEXT_SHARE)), len(ids)
    else:
        end = next((i for i in range(first, len(labels)) if labels[i] == IGNORE), len(ids))
    said = (
        _question(messages[: answers[0 if data.train_on == "assistant" and example.turn is None else -1]])
        if answers
        else ""
    )
    return Prompt(said or decode(tokenizer, ids[:first]), ids[:first], decode(tokenizer, ids[first:end]))


def add_samples(
    trainer: Any, run: Run, recipe: Recipe, log: EventLog, tokenizer: Any, held_out: list[Encoded] | None, rows: Any
) -> None:
    """Let a trainer write samples, if the recipe wants some and the weights are whole on this device."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    prompts = prompts_of(recipe, tokenizer, held_out, rows)
    if prompts:
        callback = SampleCallback(run, log, recipe, prompts, tokenizer, trainer.events.leave_out)
        callback.trainer = trainer
        trainer.add_callback(callback)


class SampleCallback(TrainerCallback):
    """Writes ``sample`` events (``step``, ``number`` of the prompt, ``prompt``, ``output``, ``cut`` if its length ended
    it, ``expected`` if known) at step 0 and at every measurement; where nothing is held out, every ``eval_steps`` and
    at the end.

    Args:
        spent: is told how many seconds each round took.
    """

    def __init__(self, run: Run, log: EventLog, recipe: Recipe, prompts: list[Prompt], tokenizer: Any, spent: Any):
        self._run, self._log, self._recipe, self._prompts = run, log, recipe, prompts
        self._tokenizer, self._spent = tokenizer, spent
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0 and not self._run.stopping:
            self._ask(args, state, base=True)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._ask(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        last = control.should_training_stop or state.global_step >= state.max_steps
        if args.eval_strategy == "no" and (last or state.global_step % args.eval_steps == 0):
            self._ask(args, state)

    def _ask(self, args: Any, state: Any, base: bool = False) -> None:
        if not self._prompts:
            return
        start = time.monotonic()
        try:
            said = answers(
                self.trainer.model,
                self._tokenizer,
                [prompt.ids for prompt in self._prompts],
                self._recipe.train.sample_tokens,
                base=base and getattr(self._recipe.method, "init_lora_weights", "") not in TAKEN_STARTS,
            )
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
            # the run is worth more than its samples, also where no memory is left for them
            self._prompts = []
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            what = f"No more samples are written: the model cannot answer while it is trained ({reason})."
            self._log.write(
                "warning", what=what, fix="Set train.sample_count to 0 to do without.", step=state.global_step
            )
            said = []
        for number, (prompt, (output, cut)) in enumerate(zip(self._prompts, said, strict=True)):
            more = {"cut": True} if cut else {}
            more |= {} if prompt.expected is None else {"expected": prompt.expected}
            self._log.write("sample", step=state.global_step, number=number, prompt=prompt.text, output=output, **more)
        self._spent(time.monotonic() - start)


def answers(
    model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, base: bool = False
) -> list[tuple[str, bool]]:
    """Greedy answers to all prompts at once, padded on the left, and whether ``max_new_tokens`` cut each of them off;
    ``base`` switches an adapter off.

    The random numbers and whether the model trains are afterwards as before.
    """
    width, pad = max(map(len, prompts)), tokenizer.pad_token_id
    inputs = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(inputs)
    for row, ids in enumerate(prompts):
        inputs[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    ends = sorted(stop_ids(tokenizer, getattr(model, "generation_config", None)))
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        min_length=0,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
    )
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    without = model.disable_adapter() if base and hasattr(model, "peft_config") else nullcontext()
    model.eval()
    as_before = contiguous_head_input(model)
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad(), without:
            output = model.generate(
                input_ids=inputs.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
            )
    finally:
        as_before()
        model.train(training)
    given = output[:, width:].tolist()
    said = [[*takewhile(lambda token: token not in ends, ids)] for ids in given]
    return [(decode(tokenizer, ids), len(ids) == max_new_tokens) for ids in said]


def decode(tokenizer: Any, ids: list[int]) -> str:
    """Tokens as text, without special tokens."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
