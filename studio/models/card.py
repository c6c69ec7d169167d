"""What is known about a model before it is loaded, read from the small files of its folder."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from studio.errors import StudioError
from studio.models.headers import DTYPES, read_config, read_headers
from studio.models.shapes import shapes_of, text_config
from studio.models.store import local_folder, read_mark
from studio.recipe import ModelSpec

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


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
        method = config["quantization_config"].get("quant_method", "unknown")
        notes.append(f"Its weights are already quantised ({method}); not every method can train it.")
    parameters = sum(t.count for n, t in tensors.items() if not _repeats(n, tensors, text)) or None
    if parameters is None and (shapes := shapes_of(config)):
        parameters = shapes.total
    return ModelCard(
        id=spec.id,
        architecture=(config.get("architectures") or [config.get("model_type")])[0],
        parameters=parameters,
        context_length=_first(text, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
        vocabulary=_first(text, "vocab_size", "padded_vocab_size"),
        dtype=_dtype(tensors) or _first(config, "dtype", "torch_dtype"),
        template=_template(folder),
        size_bytes=sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        licence=_licence(folder),
        notes=notes,
    )


def _repeats(name: str, tensors: dict, config: dict) -> bool:
    """Whether a tensor is the tied head, written a second time beside the embedding."""
    return name.endswith("lm_head.weight") and bool(config.get("tie_word_embeddings")) and len(tensors) > 1


def _first(config: dict, *keys: str):
    return next((config[k] for k in keys if config.get(k) is not None), None)


def _dtype(tensors: dict) -> str | None:
    """The format of most of the numbers."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    most = max(counts, key=lambda d: counts[d], default=None)
    return DTYPES.get(most, most) if most else None


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):  # an optional file: what it would say is not known
        return {}
    return values if isinstance(values, dict) else {}


def _template(folder: Path) -> str:
    has_file = (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists()
    settings = _json(folder / "tokenizer_config.json")
    if has_file or settings.get("chat_template"):
        return "its own"
    tokenizer = _json(folder / "tokenizer.json")
    known = {t.get("content") for t in tokenizer.get("added_tokens", [])}
    known |= {t.get("content") for t in (settings.get("added_tokens_decoder") or {}).values()}
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    known |= set(vocabulary) if isinstance(vocabulary, dict) else {piece[0] for piece in vocabulary}
    missing = sum(token not in known for token in CHATML_TOKENS)
    added = {0: "no added tokens", 1: "1 added token"}.get(missing, f"{missing} added tokens")
    return f"none: ChatML is used, with {added}"


def _licence(folder: Path) -> str | None:
    """From studio.json, the README's front matter, or the first lines of a licence file."""
    if licence := read_mark(folder).get("licence"):
        return licence
    readme = folder / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8", errors="replace")[:20_000]
        front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
        named = re.search(r"^license(?:_name)?:\s*[\"']?([\w.\- ]+)", front.group(1), re.MULTILINE) if front else None
        if named:
            return named.group(1).strip()
    for path in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
        lines = path.read_text(encoding="utf-8", errors="replace")[:2000].strip().splitlines()
        if lines:
            return lines[0].strip()[:80]
    return None
