"""Models that put texts into classes: their new head, and what they say about texts.

The head is made anew for the classes of a dataset. It is trained and saved whole with every method, since the base has
nothing in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from studio.errors import StudioError
from studio.models.chat import Notes, pad_token, prepare_chat
from studio.recipe import ModelSpec, Recipe

if TYPE_CHECKING:
    import torch


def prepare(tokenizer: Any, model: Any, recipe: Recipe) -> Notes:
    """Make a tokenizer, and the model if it is there, ready for a recipe's task; both are changed in place.

    For chat see :func:`studio.models.chat.prepare_chat`. To read a text, a model needs no template and no new tokens,
    only a token to pad with on the right.
    """
    if recipe.data.special_tokens_in_text != "special":  # saved with the tokenizer, so that prompts are encoded alike
        tokenizer.init_kwargs["special_tokens_in_text"] = recipe.data.special_tokens_in_text
    if recipe.model.task != "seq_cls":
        return prepare_chat(tokenizer, model, recipe.data.chat_template)
    notes = Notes()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = pad_token(tokenizer)
        notes.append(f"The model has no padding token, so {tokenizer.pad_token} is used.")
    tokenizer.padding_side = "right"
    if model is not None:  # a decoder finds the last token of a row by it
        model.config.pad_token_id = tokenizer.pad_token_id
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return notes


def settings_for(classes: Any) -> dict[str, Any]:
    """What a model's configuration says about its classes (``studio.data.classes.Classes``)."""
    return {
        "num_labels": len(classes.names),
        "id2label": dict(enumerate(classes.names)),
        "label2id": {name: number for number, name in enumerate(classes.names)},
        "problem_type": "multi_label_classification" if classes.multi_label else "single_label_classification",
        "ignore_mismatched_sizes": True,  # of the head of other classes; settle_head looks at it
        "output_loading_info": True,
    }


def settle_head(model: Any, loaded: Any, spec: ModelSpec) -> Any:
    """Note which layers the base does not bring (``head_modules``), and let them compute in float32.

    Beside the head of the classes that may be BERT's pooler, which many checkpoints lack. A learning rate's steps on
    coarser numbers would be rounded away.

    Args:
        loaded: what ``from_pretrained`` tells with ``output_loading_info``.

    Raises:
        StudioError: weights of the model itself are missing or of another shape.
    """
    base = getattr(model, model.base_model_prefix, None)
    head = [name for name, child in model.named_children() if child is not base and list(child.parameters())]
    new = {key.rsplit(".", 1)[0] for key in loaded["missing_keys"]}
    odd = {item[0] if isinstance(item, tuple) else item for item in loaded["mismatched_keys"]}
    inside = sorted(name for name in new if name.split(".")[0] not in head)
    broken = [name for name in inside if "pooler" not in name]
    broken += [name for name in odd if name.split(".")[0] not in head]
    if broken:
        shape = any(name in odd for name in broken)
        raise StudioError(
            f"The weights of {spec.id} do not fill the model: {broken[0]} is missing or has another shape.",
            "Download it again, or choose another model.",
            field="model.id",
            code="weights_mismatched" if shape else "weights_missing",
        )
    inside_base = f"{model.base_model_prefix}."
    model.unexpected_weights = sorted(key for key in loaded["unexpected_keys"] if key.startswith(inside_base))
    model.head_modules = [*head, *inside]
    for name in model.head_modules:
        module = model.get_submodule(name).float()
        module.register_forward_pre_hook(_in_float32)
    return model


def _in_float32(module: Any, arguments: tuple) -> tuple:
    return tuple(a.float() if hasattr(a, "is_floating_point") and a.is_floating_point() else a for a in arguments)


def check_lengths(model: Any, tokenizer: Any, rows: Sequence[list[int]]) -> None:
    """Refuse rows that are longer than a model with a place for each position can read.

    Raises:
        StudioError: with the length that fits.
    """
    known = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    most = min((size for size in known if size), default=None)
    longest = max(map(len, rows), default=0)
    if most is not None and longest > most:
        raise StudioError(
            f"A row has {longest:,} tokens, and this model reads at most {most:,}.",
            f"Set data.max_length to {most}.",
            field="data.max_length",
        )


def logits_of(
    model: Any,
    rows: Sequence[list[int]],
    pad_token_id: int,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """What a model says about each row of token ids, in their order: float32 on the CPU, (rows, classes).

    Rows of similar length go through the model together. The random numbers of a training are left alone.
    """
    import torch

    found: list[Any] = [None] * len(rows)
    training, done = model.training, 0
    model.eval()
    with torch.no_grad():
        for batch in _batches(rows, batch_size):
            inputs = padded([rows[i] for i in batch], pad_token_id)
            logits = model(**{name: part.to(model.device) for name, part in inputs.items()}).logits
            for i, row in zip(batch, logits.float().cpu(), strict=True):
                found[i] = row
            done += len(batch)
            progress(done)
    model.train(training)
    return torch.stack(found)


def padded(rows: Sequence[list[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Rows of token ids as ``input_ids`` and ``attention_mask``, (rows, longest), padded on the right."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad_token_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def summed_loss(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Loss summed over all labels: one for each text (texts,), or one for each text and class (texts, classes)."""
    from torch.nn import functional

    if labels.ndim == 1:
        return functional.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=smoothing)
    wanted = labels * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")


def as_tensor(labels: Sequence[int | list[int]], classes: int) -> torch.Tensor:
    """Numbers of classes as (texts,), or sets of them as (texts, classes) of 0 and 1."""
    import torch

    if not any(isinstance(label, list) for label in labels):
        return torch.tensor(labels)
    marks = torch.zeros(len(labels), classes)
    for row, numbers in zip(marks, labels, strict=True):
        row[numbers] = 1
    return marks


def mean_loss(logits: torch.Tensor, labels: Sequence[int | list[int]]) -> float:
    """The mean over all texts, and over all classes of each where there may be several."""
    wanted = as_tensor(labels, logits.shape[1])
    return summed_loss(logits, wanted).item() / wanted.numel()


def _batches(rows: Sequence[list[int]], size: int) -> Iterator[list[int]]:
    """Numbers of rows, longest first, so that too little memory shows at once."""
    ordered = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    return (ordered[start : start + size] for start in range(0, len(ordered), size))
