"""Turn a GGUF file into a folder in transformers' format, once: ``python -m studio.models.convert SRC.gguf DEST``.

Run as a child process, so that the caller never imports torch and a crash (a broken file, memory) stays outside it.
The last line on stdout is JSON: ``{}`` or ``{"what", "fix"}``.
"""

from __future__ import annotations

import functools
import json
import struct
import subprocess
import sys
from pathlib import Path

from studio.errors import StudioError
from studio.jobs.environment import without_secrets
from studio.models.gguf_header import check_header
from studio.models.weight_check import check_loaded

MARK = "studio.json"  # written last into a converted folder: where it came from

# What ends an answer, by the families' own names; taken as end tokens where a vocabulary has them as special tokens.
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>", "<|return|>")


def convert(source: Path, destination: Path) -> None:
    """Convert in a child process. ``destination`` is whole when this returns; its parent must exist.

    Raises:
        StudioError: the file is not a GGUF, is broken, or its architecture is not known to transformers.
    """
    check_header(source)
    child = subprocess.run(
        [sys.executable, "-m", "studio.models.convert", str(source), str(destination)],
        cwd=Path(__file__).resolve().parents[2],
        env=without_secrets(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines = child.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        answer = None
    if child.returncode == 0 and answer == {}:
        return
    if answer:
        raise StudioError(answer["what"], answer["fix"])
    last = (child.stderr.strip().splitlines() or ["no message"])[-1]
    if child.returncode < 0:
        raise StudioError(
            f"The conversion of {source.name} was killed (signal {-child.returncode}).",
            "This is most often too little memory: close other programs, or take a smaller model.",
        )
    raise StudioError(f"{source.name} could not be converted: {last[:300]}", "Choose another GGUF file of this model.")


def write_converted(source: Path, destination: Path) -> None:
    """The conversion itself: bfloat16 safetensors, tokenizer with its chat template, generation config."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    # transformers reads the whole header three times, and builds the tensors' name map once per module; both take
    # seconds in pure Python. This process does nothing else, so remembering them is safe.
    gguf.GGUFReader = functools.lru_cache(maxsize=1)(gguf.GGUFReader)
    gguf.get_tensor_name_map = functools.lru_cache(maxsize=4)(gguf.get_tensor_name_map)

    place = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
    loaded, told = AutoModelForCausalLM.from_pretrained(
        **place, dtype=torch.bfloat16, output_loading_info=True, trust_remote_code=False
    )
    check_loaded(told, source.name, "Download the file again, or choose another one of this model.")

    # A model that was loaded from GGUF counts as quantised and refuses to be saved: hand its tensors to a fresh one.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in loaded.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise StudioError(f"{source.name} holds numbers that are not finite ({broken[0]}).", "Download it again.")
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()

    if config.max_position_embeddings:
        tokenizer.model_max_length = config.max_position_embeddings
    ends = [tokenizer.eos_token_id]
    ends += [tokenizer.convert_tokens_to_ids(t) for t in END_OF_TURN if t in tokenizer.all_special_tokens]
    ends = [int(i) for i in dict.fromkeys(ends) if i is not None and i != tokenizer.unk_token_id]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    config._name_or_path = ""
    for key in ("is_local", "local_files_only"):  # how it was loaded here says nothing about the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)


def main(source: str, destination: str) -> int:
    try:
        write_converted(Path(source), Path(destination))
        answer: dict = {}
    except StudioError as error:
        answer = {"what": error.what, "fix": error.fix}
    except OSError as error:
        from studio.models.problems import disk_problem

        problem = disk_problem(error, Path(destination))
        answer = {"what": problem.what, "fix": problem.fix}
    except (
        ValueError,
        LookupError,
        RuntimeError,
        AssertionError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
        struct.error,
    ) as error:
        told = isinstance(error, (ValueError, RuntimeError)) and str(error).strip()
        reason = str(error).strip().splitlines()[0][:200] if told else "its metadata or its tensors do not fit together"
        answer = {
            "what": f"{Path(source).name} could not be read as a model: {reason}",
            "fix": "The file is broken or its architecture is not known; download it again or choose another model.",
        }
    print(json.dumps(answer), flush=True)
    return 1 if answer else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
