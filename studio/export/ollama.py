"""A folder for ``ollama create``: the whole model and a Modelfile with the run's template and stop tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.data.stops import stop_ids
from studio.export import llama_cpp, merged
from studio.export.go_templates import OllamaTemplate, translate
from studio.export.kinds import Exported, Options
from studio.jobs.progress import Report
from studio.runs import Run


def write(run: Run, folder: Path, options: Options, progress: Report) -> Exported:
    """Write the model and its Modelfile.

    Raises:
        StudioError: the chat template is of no family that is translated, or the model cannot be written.
    """
    from studio.models.load import load_tokenizer

    tokenizer = load_tokenizer(run.model_dir, trust_remote_code=run.recipe.model.trust_remote_code)
    known = translate(tokenizer)
    folder.mkdir()
    if options.weights == "gguf":
        made = llama_cpp.write(run, folder / "model.gguf", options, progress)
        source = "./model.gguf"
    else:
        made = merged.write(run, folder / "model", options, progress)
        source = "./model"
    stops = stop_texts(tokenizer, known, run.model_dir)
    (folder / "Modelfile").write_text(modelfile(run, source, known, stops), encoding="utf-8")
    told = [*made.told, f"The chat template is {known.family}'s; answers stop at {' and '.join(stops)}."]
    if known.system and not run.recipe.data.system_prompt:
        told.append("Without a system message the model's own one is used, as its chat template does.")
    told += known.notes
    name = run.recipe.name or "tuned"
    told.append(f"In the folder: ollama create {name} -f Modelfile, then ollama run {name}")
    return Exported("ollama", str(folder), told)


def modelfile(run: Run, source: str, known: OllamaTemplate, stops: list[str]) -> str:
    """The text of the Modelfile. The template stands between triple quotes, to the letter."""
    lines = [f"# The run {run.id} of SFT Studio, for Ollama.", f"FROM {source}", f'TEMPLATE """{known.template}"""']
    system = run.recipe.data.system_prompt or known.system  # what a conversation without one was trained with
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


def stop_texts(tokenizer: Any, known: OllamaTemplate, model: Path) -> list[str]:
    """Return the tokens that end a reply, that of the translated template first."""
    from transformers import GenerationConfig

    has = (model / "generation_config.json").exists()
    ids = sorted(stop_ids(tokenizer, GenerationConfig.from_pretrained(model) if has else None))
    texts = [known.end, *(tokenizer.convert_ids_to_tokens(i) for i in ids)]
    return list(dict.fromkeys(text for text in texts if text and '"' not in text))
