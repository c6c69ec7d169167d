"""A run as one Python file of plain TRL, transformers and PEFT, with the rows beside it: the same losses without the
studio.

The file is made of the very values that the run gives its trainer, so nothing is retyped. The rows are token ids and
labels, because the mask is what the studio works out and TRL does not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import Any

from studio.errors import StudioError
from studio.export import verify
from studio.export.kinds import Exported, Options
from studio.jobs.progress import Report
from studio.models.builtin import public_id
from studio.recipe import Recipe
from studio.recipe.methods import METHODS, WHOLE
from studio.runs import Run

_TEMPLATE = Path(__file__).with_name("script_template.txt")
_OURS = (  # what names this run, or is the studio's own way to follow it
    *("output_dir", "run_name", "project", "report_to", "disable_tqdm", "include_num_input_tokens_seen", "use_cache"),
    *("logging_nan_inf_filter", "eval_strategy", "eval_steps", "save_strategy", "save_steps"),
)
_FINAL = """
if not any("eval_loss" in line and line["step"] == trainer.state.global_step for line in trainer.state.log_history):
    trainer.evaluate()"""
_NAMED = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode", "peft_type")


def write(run: Run, folder: Path, options: Options, progress: Report) -> Exported:
    """Write ``train.py``, ``rows.jsonl``, ``held_out.jsonl`` and ``tokenizer/`` into ``folder``.

    Raises:
        StudioError: the rows or the base cannot be had any more, or the rows are not those of the run.
    """
    from studio.models.load import load_tokenizer
    from studio.models.store import fetch

    recipe = run.recipe
    base = fetch(recipe.pinned_model, progress=progress)
    tokenizer = load_tokenizer(base, trust_remote_code=recipe.model.trust_remote_code)
    rows, held_out, new_tokens = _rows(run, tokenizer, progress)
    _refuse_wrapped_head(recipe, new_tokens)
    progress("Writing the script", 0, 0)
    folder.mkdir()
    _write_rows(folder / "rows.jsonl", rows)
    if held_out is not None:
        _write_rows(folder / "held_out.jsonl", held_out)
    tokenizer.save_pretrained(folder / "tokenizer")
    text = _script(run, base, tokenizer, rows, held_out, new_tokens)
    compile(text, "train.py", "exec")
    (folder / "train.py").write_text(text, encoding="utf-8")
    shutil.copyfile(run.folder / "recipe.yaml", folder / "recipe.yaml")
    told = [f"The rows are those of the run: {len(rows):,} to train on, {len(held_out or []):,} held out."]
    told += [f"Not carried over: {left}." for left in left_behind(recipe)]
    return Exported("script", str(folder), told)


def _refuse_wrapped_head(recipe: Recipe, new_tokens: tuple[int, ...]) -> None:
    """Refuse an adapter that trains in the output head: TRL's loss reads the head's weight, which PEFT then hides.

    Raises:
        StudioError: with the reason.
    """
    saved = getattr(recipe.method, "modules_to_save", [])
    if recipe.method.kind not in WHOLE and (new_tokens or any(name.endswith("lm_head") for name in saved)):
        why = "tokens that are new to the base" if new_tokens else "the output head"
        raise StudioError(
            f"The adapter also trains {why}, and TRL's loss does not work with an output head inside an adapter.",
            "Share the recipe itself instead: it runs with `python app.py train`.",
        )


def left_behind(recipe: Recipe) -> list[str]:
    """What of the recipe the script does not do; none of it changes a loss before the run would have ended."""
    train = recipe.train
    found = {
        "early stopping: the script trains all steps": bool(train.early_stopping_patience),
        "keeping the best weights: the script saves the last ones": train.keep_best,
        "checkpoints by the clock": bool(train.save_minutes),
        f"the tracker {train.report_to}": train.report_to != "none",
    }
    return [what for what, there in found.items() if there]


def _rows(run: Run, tokenizer: Any, progress: Report) -> tuple[list, list | None, tuple[int, ...]]:
    """The examples that the worker trained on and measured, and the ids of tokens that are new to the base.

    Raises:
        StudioError: the data is not what the run was trained on.
    """
    from studio.data import encode_rows, load_conversations, split_conversations
    from studio.data.load import fingerprint
    from studio.models.classification import prepare

    recipe = run.recipe
    notes = prepare(tokenizer, None, recipe)
    progress("Reading the data", 0, 0)
    conversations = load_conversations(recipe.data)
    known = recipe.resolved.data_fingerprint if recipe.resolved else None
    if known and fingerprint(conversations) != known:
        raise StudioError(
            f"The rows of {recipe.data.source} are not those that the run was trained on.",
            "Put the dataset back as it was, or train again and export that run.",
        )
    training, held_out = split_conversations(conversations, recipe.data, recipe.train.seed)
    progress("Encoding the data", 0, 0)
    examples, _ = encode_rows(tokenizer, training, recipe.data)
    measured = None if held_out is None else encode_rows(tokenizer, held_out, recipe.data)[0]
    return examples, measured, notes.new_token_ids


def _write_rows(path: Path, examples: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps({"input_ids": example.input_ids, "labels": example.labels}) + "\n")


def _script(
    run: Run, base: Path, tokenizer: Any, rows: list, held_out: list | None, new_tokens: tuple[int, ...]
) -> str:
    recipe = run.recipe
    spec, resolved = recipe.pinned_model, recipe.resolved
    dtype = resolved.dtype if resolved and resolved.dtype else "float32"
    versions = resolved.versions if resolved else {}
    wanted = [
        f"{name}=={versions[name].partition('+')[0]}"
        for name in ("torch", "transformers", "trl", "peft")
        if name in versions
    ]
    on_hub = not spec.id.startswith("builtin/") and not Path(spec.id).expanduser().exists()
    options = f", revision={_literal(spec.revision)}" if on_hub and spec.revision else ""
    options += ", trust_remote_code=True" if spec.trust_remote_code else ""
    imports, method = _method(recipe, base, new_tokens)
    train = recipe.train
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        run=run.id,
        install=" ".join(wanted),
        method=METHODS[recipe.method.kind].title,
        model=public_id(spec.id),
        rows=f"{len(rows):,}",
        held_out=f"{len(held_out or []):,}",
        source=recipe.data.source,
        fingerprint=resolved.data_fingerprint if resolved else "not known",
        left="".join(f"\nNot carried over: {left}." for left in left_behind(recipe)),
        imports=f"\nfrom peft import {', '.join(sorted(imports))}" if imports else "",
        seed=train.seed,
        base=_literal(spec.id if on_hub else str(base)),
        remark="" if on_hub else f"  # {public_id(spec.id)}" if spec.id.startswith("builtin/") else "",
        dtype=f"torch.{dtype}",
        options=options,
        tokens=_new_rows(new_tokens) if new_tokens else _resize(base, tokenizer),
        trained=method,
        stops=_stops(base, tokenizer),
        arguments=_arguments(run, dtype, len(rows), held_out is not None),
        measured="None" if held_out is None else 'rows("held_out.jsonl")',
        final="" if held_out is None else _FINAL,
    )


def _arguments(run: Run, dtype: str, rows: int, measured: bool) -> str:
    """The trainer's settings as keyword arguments, one a line: all of those that the run gives its own trainer."""
    import torch

    from studio.training.run_trainer import arguments_for

    train = run.recipe.train
    device = "cpu" if train.device == "cpu" or not torch.cuda.is_available() else "cuda"
    trained_on = run.recipe.resolved.device if run.recipe.resolved else None
    device = "cpu" if trained_on == "CPU" else device
    values = arguments_for(
        run, run.recipe, SimpleNamespace(dtype=getattr(torch, dtype)), rows, measured=measured, device=device
    )
    values = {k: v for k, v in values.items() if k not in _OURS and v is not None and v != {}}
    save = {"save_strategy": "steps", "save_steps": train.save_steps} if train.save_steps else {"save_strategy": "no"}
    evaluate = {"eval_strategy": "steps", "eval_steps": train.eval_steps} if measured and train.eval_steps else {}
    return "".join(f"        {name}={_literal(value)},\n" for name, value in {**values, **evaluate, **save}.items())


def _stops(base: Path, tokenizer: Any) -> str:
    """The tokens that end a reply as Python source, as the run's own model names them."""
    from transformers import GenerationConfig

    from studio.data.stops import set_stops

    settings = GenerationConfig(eos_token_id=verify.stop_tokens(base, tokenizer))
    return _literal(set_stops(settings, tokenizer).eos_token_id)


def _literal(value: Any) -> str:
    """A value as Python source, text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _new_rows(ids: tuple[int, ...]) -> str:
    """Lines that give new tokens the mean of the old rows, as the run did."""
    return Template(
        """
# the chat template's own tokens are new to the base: their rows begin at the mean of all others
NEW = $ids
known = model.get_input_embeddings().weight.shape[0]
if len(tokenizer) > known:
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
with torch.no_grad():
    for weight in {layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())}:
        weight[NEW] = weight[: min(known, *NEW)].float().mean(dim=0).to(weight.dtype)
"""
    ).substitute(ids=list(ids))


def _resize(base: Path, tokenizer: Any) -> str:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    known = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or len(tokenizer)
    return "\nmodel.resize_token_embeddings(len(tokenizer), mean_resizing=False)\n" if len(tokenizer) > known else ""


def _method(recipe: Recipe, base: Path, new_tokens: tuple[int, ...]) -> tuple[list[str], str]:
    """Names to import from PEFT, and the lines that say what is trained; they come from the studio's own functions,
    asked about the model's layers without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from studio.models.adapters import adapter_config
    from studio.models.methods import apply_method
    from studio.models.remote_code import may_run

    if recipe.method.kind == "full":
        return [], "model.requires_grad_(True)"
    trusted = may_run(base, recipe.model.trust_remote_code)
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=trusted)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    if recipe.method.kind == "freeze":
        names = trained_modules(apply_method(model, recipe, new_tokens))
        lines = ["model.requires_grad_(False)", f"for name in {names!r}:"]
        return [], "\n".join([*lines, "    model.get_submodule(name).requires_grad_(True)"])
    made = adapter_config(model, recipe, list(new_tokens), 0)
    if recipe.method.kind == "lora" and recipe.method.init_lora_weights == "default":
        made.init_lora_weights = True
    values = _settings(made)
    lines = "".join(f"    {name}={_literal(value)},\n" for name, value in values.items())
    kind = type(made).__name__
    return [kind, "get_peft_model"], f"config = {kind}(\n{lines})\nmodel = get_peft_model(model, config)"


def trained_modules(model: Any) -> list[str]:
    """The largest modules of which every parameter is trained, by name."""
    chosen: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        inside = any(name == one or name.startswith(f"{one}.") for one in chosen)
        if name and parameters and not inside and all(p.requires_grad for p in parameters):
            chosen.append(name)
    return chosen


def _settings(config: Any) -> dict[str, Any]:
    """The fields of a PEFT configuration that differ from its defaults, as plain values."""
    found = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if each.default is not MISSING:
            default = each.default
        else:
            default = each.default_factory() if each.default_factory is not MISSING else None
        if each.name in _NAMED or not each.init or value == default:
            continue
        value = value.value if isinstance(value, Enum) else value
        found[each.name] = sorted(value) if isinstance(value, set) else value
    return found
