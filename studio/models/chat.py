"""Make a tokenizer (and its model) ready for conversations: chat template, end token, padding token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.errors import StudioError

START, END = "<|im_start|>", "<|im_end|>"

# ChatML with transformers' markers of what the assistant says: the mask covers each answer and its <|im_end|>, and not
# the newline after it, which no model has to produce.
CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- (message['content'] or '') + '<|im_end|>' }}{%- endgeneration %}"
    "{%- else %}"
    "{{- (message['content'] or '') + '<|im_end|>' }}"
    "{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# Tokens that families keep for padding or never use in text, best first.
PAD_CANDIDATES = (
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|vision_pad|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<unk>",
)


class Notes(list[str]):
    """What was changed, one sentence each; and the ids of the tokens that the base model has never seen."""

    new_token_ids: tuple[int, ...] = ()


def prepare_chat(tokenizer: Any, model: Any | None = None, chat_template: str = "auto") -> Notes:
    """Give ``tokenizer`` a chat template, an end token and a padding token, and fit ``model`` to it.

    Without a model it does the same to the tokenizer: a preview gets the token ids of the training run. New rows of
    the embeddings are the mean of the old ones, so that they are the same each time the base is loaded.

    Args:
        tokenizer: as :func:`studio.models.load.load_tokenizer` gives it; changed in place.
        model: the model to fit, or None; changed in place.
        chat_template: ``auto`` (its own, or ChatML if it has none), ``chatml``, or the path of a Jinja file.

    Returns:
        Notes, with ``new_token_ids``: LoRA leaves embeddings alone, so a method has to train these rows itself.

    Raises:
        StudioError: the template file is missing or is not a chat template.
    """
    before = getattr(tokenizer, "prepared", None)
    if before and before[0] == chat_template:  # the tokenizer was prepared before its model was there
        notes = before[1]
    else:
        notes = _prepare_tokenizer(tokenizer, chat_template)
        notes.new_token_ids = tuple(sorted({*notes.new_token_ids, *(before[1].new_token_ids if before else ())}))
        tokenizer.prepared = (chat_template, notes)
    if model is not None:
        _fit(model, tokenizer, notes.new_token_ids)
    return notes


def _prepare_tokenizer(tokenizer: Any, chat_template: str) -> Notes:
    notes = Notes()
    if chat_template not in ("auto", "chatml"):
        tokenizer.chat_template = _read_template(chat_template, tokenizer)
        notes.append(f"The chat template is {Path(chat_template).name}.")
    elif chat_template == "chatml" or not tokenizer.chat_template:
        notes.append(
            "ChatML replaces the model's own chat template."
            if tokenizer.chat_template
            else "The model has no chat template, so ChatML is used."
        )
        notes.new_token_ids = _set_chatml(tokenizer)
        if notes.new_token_ids:
            new = tokenizer.convert_ids_to_tokens(list(notes.new_token_ids))
            notes.append(
                f"{len(new)} {'token was' if len(new) == 1 else 'tokens were'} added for it: {', '.join(new)}."
            )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _pad_token(tokenizer)
        notes.append(f"The model has no padding token, so {tokenizer.pad_token} is used.")
    return notes


def adds_bos(tokenizer: Any) -> bool:
    """Whether this tokenizer begins every text with its beginning-of-sequence token, as its model was trained."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _set_chatml(tokenizer: Any) -> tuple[int, ...]:
    begins = adds_bos(tokenizer)
    known = tokenizer.get_vocab()
    new = [token for token in (START, END) if token not in known]
    if new:
        tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    tokenizer.eos_token = END
    tokenizer.chat_template = ("{{- bos_token }}" if begins and tokenizer.bos_token != START else "") + CHATML
    return tuple(tokenizer.convert_tokens_to_ids(new))


def _pad_token(tokenizer: Any) -> str:
    known = tokenizer.get_vocab()
    return next((t for t in PAD_CANDIDATES if t in known and t != tokenizer.eos_token), None) or tokenizer.eos_token


def _read_template(path: str, tokenizer: Any) -> str:
    import jinja2

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise StudioError(
            f"The chat template {path} cannot be read: {error.strerror}.",
            "Use auto, chatml, or the path of a .jinja file.",
            field="data.chat_template",
        ) from error
    except UnicodeDecodeError as error:
        raise StudioError(f"{path} is not a text file.", "Name a .jinja file.", field="data.chat_template") from error
    sample = [{"role": "user", "content": "ping-7"}, {"role": "assistant", "content": "pong-8"}]
    try:
        rendered = tokenizer.apply_chat_template(sample, chat_template=text, tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        line = f" at line {error.lineno}" if getattr(error, "lineno", None) else ""
        raise StudioError(
            f"The chat template {path} fails{line}: {error}.", "Mend the file.", field="data.chat_template"
        ) from error
    if "ping-7" not in rendered or "pong-8" not in rendered:
        raise StudioError(
            f"The chat template {path} leaves out what is said.",
            "It must print message['content'] of every message.",
            field="data.chat_template",
        )
    return text


def _fit(model: Any, tokenizer: Any, new_ids: tuple[int, ...]) -> None:
    """Rows for new tokens, and the same end and padding tokens in the model's configurations."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if new_ids:
        old = min(rows, min(new_ids))
        layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
        done: set[int] = set()
        for weight in (layer.weight for layer in layers):
            if weight.data_ptr() in done:  # tied
                continue
            done.add(weight.data_ptr())
            with torch.no_grad():
                weight[list(new_ids)] = weight[:old].float().mean(dim=0).to(weight.dtype)
    configs = [model.config] + ([model.generation_config] if getattr(model, "generation_config", None) else [])
    for config in configs:
        config.pad_token_id = tokenizer.pad_token_id
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        if tokenizer.eos_token_id not in ends:  # ChatML brought its own; several ends of the model's own stay
            config.eos_token_id = tokenizer.eos_token_id
