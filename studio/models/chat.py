"""Make a tokenizer (and its model) ready for conversations: chat template, end token, padding token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models.templates import BUILTIN, CHATML, END, START, BuiltinTemplate
from studio.recipe import is_inline

__all__ = ["CHATML", "END", "START", "Notes", "adds_bos", "prepare_chat"]

SAMPLE = (  # a conversation to try a template on, with contents that no template has of its own
    {"role": "user", "content": "ping-7"},
    {"role": "assistant", "content": "pong-8"},
)
TEMPLATE_CHARACTERS = 1_000_000  # of a template's file; the longest template of a known model has 30,000

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
        chat_template: ``auto`` (its own, or ChatML if it has none), a name of
            :data:`studio.models.templates.BUILTIN`, a template itself (it has ``{{`` or ``{%``), or the path of a
            Jinja file.

    Returns:
        Notes, with ``new_token_ids``: LoRA leaves embeddings alone, so a method has to train these rows itself.

    Raises:
        StudioError: the template's file is missing; the template is not one, or leaves its bounds when it is tried;
            or it ends turns with an end-of-text token that the tokenizer does not have.
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
    if chat_template == "auto" and tokenizer.chat_template:
        _check_own(tokenizer)
    elif chat_template == "auto" or chat_template in BUILTIN:
        chosen = BUILTIN["chatml" if chat_template == "auto" else chat_template]
        had = bool(tokenizer.chat_template)
        notes.new_token_ids = _set_builtin(tokenizer, chosen)
        notes.append(
            f"{chosen.title} replaces the model's own chat template."
            if had
            else f"The model has no chat template, so {chosen.title} is used."
        )
        if notes.new_token_ids:
            new = tokenizer.convert_ids_to_tokens(list(notes.new_token_ids))
            notes.append(
                f"{len(new)} {'token was' if len(new) == 1 else 'tokens were'} added for it: {', '.join(new)}."
            )
    elif is_inline(chat_template):
        tokenizer.chat_template = _checked(chat_template, tokenizer)
        notes.append("The chat template is the one written in the recipe.")
    else:
        tokenizer.chat_template = _checked(_read_template(chat_template), tokenizer)
        notes.append(f"The chat template is {Path(chat_template).name}.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = pad_token(tokenizer)
        notes.append(f"The model has no padding token, so {tokenizer.pad_token} is used.")
    return notes


def adds_bos(tokenizer: Any) -> bool:
    """Whether this tokenizer begins every text with its beginning-of-sequence token, as its model was trained."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _set_builtin(tokenizer: Any, chosen: BuiltinTemplate) -> tuple[int, ...]:
    if chosen.end is None and not tokenizer.eos_token:
        raise StudioError(
            f"{chosen.title} ends each answer with the tokenizer's end-of-text token, and this tokenizer has none.",
            "Set data.chat_template to chatml, which brings its own.",
            field="data.chat_template",
        )
    begins = adds_bos(tokenizer) and tokenizer.bos_token not in chosen.special_tokens
    known = tokenizer.get_vocab()
    new = [token for token in chosen.special_tokens if token not in known]
    if new:
        tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    if chosen.end is not None:
        tokenizer.eos_token = chosen.end
    tokenizer.chat_template = ("{{- bos_token }}" if begins else "") + chosen.template
    return tuple(tokenizer.convert_tokens_to_ids(new))


def pad_token(tokenizer: Any) -> str:
    """The token to pad with, of a tokenizer that names none."""
    known = tokenizer.get_vocab()
    return next((t for t in PAD_CANDIDATES if t in known and t != tokenizer.eos_token), None) or tokenizer.eos_token


def _read_template(path: str) -> str:
    try:
        with open(Path(path).expanduser(), encoding="utf-8") as file:
            text = file.read(TEMPLATE_CHARACTERS + 1)
    except OSError as error:
        raise StudioError(
            f"The chat template {path} cannot be read: {error.strerror}.",
            f"Use auto, {', '.join(BUILTIN)}, the path of a .jinja file, or the template itself.",
            field="data.chat_template",
        ) from error
    except UnicodeDecodeError as error:
        raise StudioError(f"{path} is not a text file.", "Name a .jinja file.", field="data.chat_template") from error
    if len(text) > TEMPLATE_CHARACTERS:
        raise StudioError(
            f"{path} has more than {TEMPLATE_CHARACTERS:,} characters.",
            "Name a .jinja file.",
            field="data.chat_template",
        )
    return text


def _checked(template: str, tokenizer: Any) -> str:
    """A template of the user's, once a process of its own has shown that it ends and prints what is said."""
    from studio.models.jinja_check import try_template

    rendered = try_template(template, SAMPLE, tokenizer.special_tokens_map)
    if not all(message["content"] in rendered for message in SAMPLE):
        raise StudioError(
            "The chat template leaves out what is said.",
            "It must print message['content'] of every message.",
            field="data.chat_template",
        )
    return template


def _check_own(tokenizer: Any) -> None:
    """Try the model's own template too, but start no process for one that cannot leave its bounds."""
    from studio.models.jinja_check import needs_trying, try_template

    own = tokenizer.chat_template
    for template in own.values() if isinstance(own, dict) else [own]:
        if needs_trying(template):
            try_template(template, SAMPLE, tokenizer.special_tokens_map)


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
