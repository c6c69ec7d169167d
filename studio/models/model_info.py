"""What is known about a model before it is loaded, read from the small files of its folder."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.folders import files_below
from studio.models.headers import DTYPES, read_config, read_headers, read_json
from studio.models.shapes import shapes_of, text_config
from studio.models.store import local_folder, read_mark
from studio.recipe import ModelSpec

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_MOST_TOKENIZER = 64 << 20  # bytes of tokenizer.json; that of Gemma 3 has 33 MB


@dataclass(frozen=True)
class ModelCard:
    """The facts about a base model that a person chooses by. None where the files do not say."""

    id: str
    architecture: str | None
    parameters: int | None
    context_length: int | None  # tokens
    vocabulary: int | None  # rows of the embedding
    dtype: str | None
    template: str  # "its own", or "none: ChatML is used, with N added tokens"
    size_bytes: int  # on the disk
    licence: str | None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        return asdict(self)


def describe(spec: ModelSpec) -> ModelCard:
    """The card of a model that is on this disk (see ``store.fetch``). Loads neither torch nor transformers.

    Raises:
        StudioError: the model is not on this disk yet, or its files are broken.
    """
    folder = local_folder(spec)
    if folder is None:
        raise StudioError(f"{spec.id} is not on this disk yet.", "Fetch it first.", field="model.id")
    config = read_config(folder)
    text = text_config(config)
    tensors = read_headers(folder)
    notes: list[str] = []
    if config.get("auto_map"):
        notes.append("It comes with Python code of its own, which may have to be allowed.")
    if text is not config and text.get("model_type") != config.get("model_type"):
        notes.append("Its language part is described; it may also read pictures or sound.")
    if not tensors:
        notes.append("Its weights are in the older .bin format.")
    if config.get("quantization_config"):
        quantized = config["quantization_config"]
        method = _short(quantized.get("quant_method")) if isinstance(quantized, dict) else None
        method = method or "unknown"
        notes.append(f"Its weights are already quantised ({method}); not every method can train it.")
    parameters = sum(t.count for n, t in tensors.items() if not _repeats(n, tensors, text)) or None
    if parameters is None and (shapes := shapes_of(config)):
        parameters = shapes.total
    return ModelCard(
        id=spec.id,
        architecture=_short(_first_of(config.get("architectures"))) or _short(config.get("model_type")),
        parameters=parameters,
        context_length=_size(text, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
        vocabulary=_size(text, "vocab_size", "padded_vocab_size"),
        dtype=_dtype(tensors) or _short(config.get("dtype")) or _short(config.get("torch_dtype")),
        template=_template(folder),
        size_bytes=sum(path.stat().st_size for path in files_below(folder, "model.id")),
        licence=_licence(folder),
        notes=notes,
    )


def _repeats(name: str, tensors: dict, config: dict) -> bool:
    """Whether a tensor is the tied head, written a second time beside the embedding."""
    return name.endswith("lm_head.weight") and bool(config.get("tie_word_embeddings")) and len(tensors) > 1


def _size(config: dict, *keys: str) -> int | None:
    """The first of these sizes that a configuration states; ``check_config`` has bounded it."""
    values = (config.get(key) for key in keys)
    return next((int(value) for value in values if isinstance(value, (int, float))), None)


def _short(value: Any) -> str | None:
    """A text of a configuration as it may be shown, or None if it is none."""
    return value[:120] if isinstance(value, str) and value else None


def _first_of(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _dtype(tensors: dict) -> str | None:
    """The format of most of the numbers."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    most = max(counts, key=lambda d: counts[d], default=None)
    return DTYPES.get(most, most) if most else None


def _json(path: Path) -> dict:
    """A file that a model need not have: what is broken in it is said where it is loaded."""
    value = read_json(path, missing={}, broken={}, most_bytes=_MOST_TOKENIZER)
    return value if isinstance(value, dict) else {}


def _template(folder: Path) -> str:
    has_file = (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists()
    settings = _json(folder / "tokenizer_config.json")
    if has_file or settings.get("chat_template"):
        return "its own"
    tokenizer = _json(folder / "tokenizer.json")
    added, decoder = tokenizer.get("added_tokens"), settings.get("added_tokens_decoder")
    listed = [*(added if isinstance(added, list) else []), *(decoder.values() if isinstance(decoder, dict) else [])]
    known = {str(token.get("content")) for token in listed if isinstance(token, dict)}
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        known |= vocabulary.keys()
    elif isinstance(vocabulary, list):
        known |= {str(piece[0]) for piece in vocabulary if isinstance(piece, list) and piece}
    missing = sum(token not in known for token in CHATML_TOKENS)
    added = {0: "no added tokens", 1: "1 added token"}.get(missing, f"{missing} added tokens")
    return f"none: ChatML is used, with {added}"


def _licence(folder: Path) -> str | None:
    """From studio.json, the README's front matter, or the first lines of a licence file."""
    if licence := _short(read_mark(folder).get("licence")):
        return licence
    readme = folder / "README.md"
    if readme.exists():
        text = _head(readme, 20_000)
        front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
        named = re.search(r"^license(?:_name)?:\s*[\"']?([\w.\- ]+)", front.group(1), re.MULTILINE) if front else None
        if named:
            return named.group(1).strip()
    for path in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
        lines = _head(path, 2000).strip().splitlines()
        if lines:
            return lines[0].strip()[:80]
    return None


def _head(path: Path, most: int) -> str:
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", errors="replace")
