"""Packed rows: several examples in one, each of which sees only itself; and batches whose rows stand so, for one step.

The positions of each example begin at 0, and from that transformers makes the mask that keeps them apart, for every
attention kernel that takes a mask. A model that looks across all the same is refused.
"""

from __future__ import annotations

from typing import Any

import torch

from studio.data import Encoded
from studio.data.pack import pack
from studio.errors import StudioError
from studio.models.head import IGNORE

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}  # of the logits, relative
_PROBED = 24  # tokens of each of the two examples


def packed(examples: list[Encoded], size: int) -> list[dict[str, Any]]:
    """Rows of at most ``size`` tokens as TRL's collator takes them: ``input_ids``, ``labels``, ``seq_lengths``; and
    ``length`` and ``example``, the numbers of the examples in it.

    The first token of an example carries no loss: it would be guessed from the end of another one.
    """
    rows = []
    for numbers in pack([len(example.input_ids) for example in examples], size):
        inside = [examples[number] for number in numbers]
        lengths = [len(example.input_ids) for example in inside]
        rows.append(
            {
                "input_ids": [token for example in inside for token in example.input_ids],
                "labels": [label for example in inside for label in [IGNORE, *example.labels[1:]]],
                "seq_lengths": lengths,
                "length": sum(lengths),
                "example": numbers,
            }
        )
    return rows


def without_padding(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows of a batch (rows, length), padded on the right, one behind another: tokens, mask, labels and positions,
    each (1, tokens). The loss is the same: what comes after a row's last token is not asked of it."""
    real = attention_mask.bool()
    labels = labels.clone()
    labels[:, 0] = IGNORE
    positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    return tuple(each[real][None] for each in (input_ids, attention_mask, labels, positions))


def check_apart(model: torch.nn.Module, examples: list[Encoded], field: str = "train.packing") -> None:
    """Compute two examples packed and by themselves, two rows at once.

    Raises:
        StudioError: the model's attention looks from one example to the other, or takes no positions. ``field`` is the
            recipe's that asked for it.
    """
    one, other = (_long(examples[number].input_ids) for number in (0, -1))
    device = model.device
    ids = torch.tensor([one + other, other + one], device=device)
    positions = torch.arange(_PROBED, device=device).repeat(2)[None].repeat(2, 1)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, _PROBED:]
            alone = model(input_ids=ids[:, _PROBED:], use_cache=False).logits
    except (TypeError, ValueError) as error:
        raise _refused(str(error).strip().splitlines()[0][:200], field) from error
    finally:
        model.train(training)
    off = ((together - alone).float().norm() / alone.float().norm()).item()
    if not off <= _TOLERANCE.get(alone.dtype, 1e-3):
        raise _refused(f"its answers are {off:.0%} different behind another row", field)


def _long(tokens: list[int]) -> list[int]:
    """A row's beginning, repeated where the row is too short."""
    return (tokens * (_PROBED // len(tokens) + 1))[:_PROBED]


def _refused(why: str, field: str) -> StudioError:
    return StudioError(
        f"This model does not keep packed rows apart ({why}).",
        f"Turn {field} off; group_by_length keeps the padding small as well.",
        field=field,
    )
