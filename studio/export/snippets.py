"""Python to paste: the tuned model in transformers and in vLLM, with the settings that this very run needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from studio.data.classes import FILE as CLASSES
from studio.data.classes import Classes
from studio.export import verify
from studio.export.kinds import Exported, Options
from studio.jobs.progress import Report
from studio.recipe.methods import METHODS, WHOLE
from studio.runs import Run

_QUESTION = "Write the question here."


def write(run: Run, folder: Path, options: Options, progress: Report) -> Exported:
    """Write one file for each library into ``folder``."""
    progress("Looking at the model", 0, 0)
    code = snippets(run)
    folder.mkdir()
    told = []
    for title, text in code.items():
        name = "transformers_snippet.py" if "transformers" in title else "vllm_snippet.py"
        (folder / name).write_text(text, encoding="utf-8")
    if not any("vLLM" in title for title in code):
        told.append(no_vllm(run) or "")
    return Exported("snippet", str(folder), told, code)


def snippets(run: Run) -> dict[str, str]:
    """Title and text of each snippet."""
    from studio.models.load import load_tokenizer
    from studio.models.store import fetch

    recipe = run.recipe
    tokenizer = load_tokenizer(run.model_dir, trust_remote_code=recipe.model.trust_remote_code)
    base = None if recipe.method.kind in WHOLE else fetch(recipe.pinned_model)
    if recipe.model.task == "seq_cls":
        return {"transformers": _classifier(run, base, tokenizer)}
    code = {"transformers": _transformers(run, base, tokenizer)}
    if no_vllm(run) is None:
        code["vLLM"] = _vllm(run, base, tokenizer)
    return code


def no_vllm(run: Run) -> str | None:
    """Why vLLM cannot serve a run's model as it is; None if it can."""
    recipe = run.recipe
    if recipe.model.task == "seq_cls":
        return "vLLM is not written out for classifiers."
    if recipe.method.kind in WHOLE:
        return None
    if recipe.method.kind != "lora":
        more = "export the whole model, and serve that" if METHODS[recipe.method.kind].merges else "use transformers"
        return f"vLLM takes adapters of LoRA alone: {more}."
    config = json.loads((run.model_dir / "adapter_config.json").read_text(encoding="utf-8"))
    extras = {
        "DoRA": config.get("use_dora"),
        "layers that were trained whole": config.get("modules_to_save"),
        "new tokens": config.get("trainable_token_indices"),
    }
    found = [name for name, there in extras.items() if there]
    return f"vLLM does not take an adapter with {' and '.join(found)}: export the whole model." if found else None


def _text(value: Any) -> str:
    """Text as Python source, in double quotes."""
    return json.dumps(str(value), ensure_ascii=False)


def _place(run: Run, base: Path | None) -> tuple[str, list[str]]:
    """Where the base is loaded from, as Python, and remarks to stand above it.

    A model of the Hub is named with its commit; one that lies on this disk in another form (the built-in one may have
    been made from a 4-bit file) is named by its folder, since the Hub's numbers are others.
    """
    from studio.models.builtin import public_id

    spec = run.recipe.pinned_model
    if spec.id.startswith("builtin/"):
        return _text(base), [f"# {public_id(spec.id)}, as it lies here and was trained on"]
    return _text(base if Path(spec.id).expanduser().exists() else spec.id), []


def _loading(run: Run, base: Path | None, tokenizer: Any, kind: str, more: str = "") -> list[str]:
    """Lines that load the model as the run had it."""
    recipe, tuned = run.recipe, str(run.model_dir)
    dtype = recipe.resolved.dtype if recipe.resolved and recipe.resolved.dtype else "float32"
    trust = ", trust_remote_code=True" if recipe.model.trust_remote_code else ""
    if recipe.method.kind in WHOLE:
        return [f"model = {kind}.from_pretrained({_text(tuned)}, dtype=torch.{dtype}{trust})"]
    place, remark = _place(run, base)
    spec = recipe.pinned_model
    revision = f", revision={_text(spec.revision)}" if spec.revision and not Path(spec.id).expanduser().exists() else ""
    lines = [*remark, f"base = {place}"]
    quantised = ""
    if spec.quantization != "none":
        settings = "load_in_8bit=True" if spec.quantization == "int8" else (
            f'load_in_4bit=True, bnb_4bit_quant_type="{spec.quantization}", '
            f"bnb_4bit_use_double_quant={spec.double_quantization}, bnb_4bit_compute_dtype=torch.{dtype}"
        )  # fmt: skip
        lines.append(f"quantised = BitsAndBytesConfig({settings})")
        quantised = ", quantization_config=quantised"
    lines.append(f"model = {kind}.from_pretrained(base, dtype=torch.{dtype}{revision}{trust}{quantised}{more})")
    if not more and len(tokenizer) > _vocabulary(base):
        lines.append("model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # the chat template's tokens")
    lines.append(f"model = PeftModel.from_pretrained(model, {_text(tuned)})")
    return lines


def _vocabulary(base: Path | None) -> int:
    """Rows of a base's embeddings."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 1 << 40


def _imports(run: Run, kind: str) -> list[str]:
    names = ["AutoTokenizer", kind, *(["BitsAndBytesConfig"] if run.recipe.model.quantization != "none" else [])]
    lines = ["import torch"]
    if run.recipe.method.kind not in WHOLE:
        lines.append("from peft import PeftModel")
    lines.append(f"from transformers import {', '.join(sorted(names))}")
    if run.recipe.method.kind == "bottleneck":
        lines += ["", "import studio.models.bottleneck  # noqa: F401  not in PEFT: run this in the studio's folder"]
    return lines


def _transformers(run: Run, base: Path | None, tokenizer: Any) -> str:
    model = run.model_dir if base is None else base
    lines = [
        *_imports(run, "AutoModelForCausalLM"),
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({_text(run.model_dir)})",
        *_loading(run, base, tokenizer, "AutoModelForCausalLM"),
        'model.to("cuda" if torch.cuda.is_available() else "cpu").eval()'
        if run.recipe.model.quantization == "none"
        else "model.eval()",
        "",
        _messages(run),
        "text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)",
        'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)',
        "output = model.generate(",
        "    **inputs,",
        "    max_new_tokens=256,",
        "    do_sample=False,",
        "    repetition_penalty=1.0,",
        f"    eos_token_id={_stop_ids(model, tokenizer)},",
        f"    pad_token_id={tokenizer.pad_token_id},",
        ")",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join(lines) + "\n"


def _messages(run: Run) -> str:
    """The conversation to ask, with the system message that the rows were trained with, if the recipe puts one in."""
    system = run.recipe.data.system_prompt
    lines = [f'    {{"role": "system", "content": {_text(system)}}},'] if system else []
    lines.append(f'    {{"role": "user", "content": {_text(_QUESTION)}}},')
    return "\n".join(["messages = [", *lines, "]"])


def _classifier(run: Run, base: Path | None, tokenizer: Any) -> str:
    from studio.data import encode_row

    classes = Classes.load(run.model_dir / CLASSES)
    label = [classes.names[0]] if classes.multi_label else classes.names[0]
    read = encode_row(tokenizer, {"text": "a", "label": label}, run.recipe.data, classes).input_ids
    end = " + tokenizer.eos_token" if read != tokenizer("a")["input_ids"] else ""  # a decoder reads its end token
    kind = "AutoModelForSequenceClassification"
    share = "torch.sigmoid(logits)" if classes.multi_label else "torch.softmax(logits, dim=-1)"
    lines = [
        *_imports(run, kind),
        "",
        f"classes = {list(classes.names)!r}",
        f"tokenizer = AutoTokenizer.from_pretrained({_text(run.model_dir)})",
        *_loading(run, base, None, kind, ", num_labels=len(classes)"),
        "model.config.pad_token_id = tokenizer.pad_token_id",
        "model.eval()",
        "",
        f'inputs = tokenizer("Write the text here."{end}, return_tensors="pt")',
        "with torch.no_grad():",
        "    logits = model(**inputs).logits[0].float()",
        f"for name, share in zip(classes, {share}.tolist(), strict=True):",
        '    print(f"{share:.3f}  {name}")',
    ]
    return "\n".join(lines) + "\n"


def _vllm(run: Run, base: Path | None, tokenizer: Any) -> str:
    recipe, tuned = run.recipe, str(run.model_dir)
    stops = _stop_ids(run.model_dir if base is None else base, tokenizer)
    head = ["from vllm import LLM, SamplingParams"]
    if base is None:
        loading, request = [f"llm = LLM({_text(tuned)})"], ""
    else:
        head.append("from vllm.lora.request import LoRARequest")
        place, remark = _place(run, base)
        config = json.loads((run.model_dir / "adapter_config.json").read_text(encoding="utf-8"))
        rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
        sizes = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM takes these and no others
        allowed = next((size for size in sizes if size >= rank), rank)
        spec = recipe.pinned_model
        revision = f", revision={_text(spec.revision)}" if spec.revision else ""
        loading = [*remark, f"base = {place}", f"tuned = {_text(tuned)}"]
        loading.append(f"llm = LLM(base, tokenizer=tuned, enable_lora=True, max_lora_rank={allowed}{revision})")
        request = ', lora_request=LoRARequest("tuned", 1, tuned)'
    lines = [
        *head,
        "",
        *loading,
        _messages(run),
        f"sampling = SamplingParams(temperature=0, max_tokens=256, stop_token_ids={stops})",
        f"print(llm.chat(messages, sampling{request})[0].outputs[0].text)",
    ]
    return "\n".join(lines) + "\n"


def _stop_ids(model: Path, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, as the studio's own chat takes them."""
    return verify.stop_tokens(model, tokenizer)
