"""Logits where there is loss, and nowhere else: the part of a forward pass that training and evaluation share.

Three things are left out, and none changes the loss or its gradients:

- The output head sees only the positions that are labelled. On a small model with a large vocabulary most of a step is
  the head, and most positions of a chat carry no loss. The idea is that of the fused heads of Liger
  (https://arxiv.org/abs/2410.10989) and TRL, without tiles.
- Tokens that all rows of a batch begin with, such as a system message, go through the model once: their keys and values
  are the same for every row, so the rows take them from one cache, and the gradients of all rows add up in it (the
  forward pass of Prefix Grouper, https://arxiv.org/abs/2506.05433, with transformers' cache).
- Rows that are padded on the right need no mask: the padding comes after everything that is looked at, and each
  position sees what is before it. Without a mask attention skips what lies after a position, which is half of its work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

IGNORE = -100
_LEAST_PREFIX = 12  # tokens; a pass over fewer costs more than it saves
LEAST_SAVING = 0.4  # of the tokens of a batch: rows behind a cache need a mask, which makes their attention dearer
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
log = logging.getLogger(__name__)


class LabelledLogits:
    """The logits of a causal language model at the positions whose next token is labelled.

    A beginning that all rows share is computed once where the model allows it: plain causal attention with the usual
    cache, no dropout, no recomputation of activations. The first batch that could use it is computed both ways on
    two of its rows, and where the losses differ beyond rounding, sharing stays off for this model. Where these rows
    carry no loss, the next batch decides.

    Args:
        model: as it is called: bare, or PEFT's.
        share_prefix: False always computes every row whole.
    """

    def __init__(self, model: torch.nn.Module, share_prefix: bool = True):
        self._model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head = base.get_output_embeddings()
        self.shares_prefix: bool | None = None if share_prefix and can_share(model) else False
        self.needs_mask: bool | None = None

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        model: Any = None,
        position_ids: torch.Tensor | None = None,
        before_head: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One forward pass.

        Args:
            input_ids, attention_mask, labels: each (batch, length), padded on the right; -100 carries no loss.
            model: what to call instead of the model, for example the same one wrapped for several processes.
            position_ids: (batch, length), of rows with several examples: each begins at 0 and sees itself alone.
            before_head: give the states that the head would read, (positions, hidden), in the place of the logits.

        Returns:
            logits (positions, vocabulary); the tokens that should come next (positions,); and the mask (batch, length)
            of those positions, whose next token is labelled.
        """
        targets = functional.pad(labels, (0, 1), value=IGNORE)[:, 1:]
        mask = targets != IGNORE
        model = self._model if model is None else model
        shared = 0
        if position_ids is not None:
            with labelled_positions(self.head, mask, before_head):
                logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
            return logits if logits.dim() == 2 else logits[mask], targets[mask], mask
        if self.needs_mask is None:
            self.needs_mask = self._sees_padding(input_ids, targets)
        if self.shares_prefix is not False and not _recomputes(self._model):
            shared = shared_prefix(input_ids, attention_mask, mask)
        if shared and self.shares_prefix is None:
            self.shares_prefix = self._same_both_ways(input_ids[:2], attention_mask[:2], targets[:2], shared)
        if shared and self.shares_prefix:
            logits = self._after_prefix(model, input_ids, attention_mask, mask, shared, before_head)
        else:
            logits = self._whole(model, input_ids, attention_mask if self.needs_mask else None, mask, before_head)
        return logits, targets[mask], mask

    def _whole(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention: torch.Tensor | None,
        mask: torch.Tensor,
        before_head: bool = False,
    ) -> torch.Tensor:
        with labelled_positions(self.head, mask, before_head):
            logits = model(input_ids=input_ids, attention_mask=attention, use_cache=False).logits
        return logits if logits.dim() == 2 else logits[mask]  # a model without a head that could be hooked

    def _after_prefix(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention: torch.Tensor,
        mask: torch.Tensor,
        shared: int,
        before_head: bool = False,
    ) -> torch.Tensor:
        with labelled_positions(self.head, torch.zeros_like(mask[:1, :shared])):
            # not through ``model``: of several ranks each may share or not, so only one pass may be a matter of all
            cache = self._model(input_ids=input_ids[:1, :shared], use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(input_ids))
        with labelled_positions(self.head, mask[:, shared:], before_head):
            logits = model(
                input_ids=input_ids[:, shared:], attention_mask=attention, past_key_values=cache, use_cache=True
            ).logits
        return logits if logits.dim() == 2 else logits[mask[:, shared:]]

    @torch.no_grad()
    def _sees_padding(self, input_ids: torch.Tensor, targets: torch.Tensor) -> bool | None:
        """Whether padding behind a row changes its loss when there is no mask; None without a label to tell it by."""
        places = (targets != IGNORE).nonzero()
        if not len(places):
            return None
        row, first = places[0].tolist()
        ids = input_ids[row : row + 1, : first + 1].repeat(2, 1)
        ids = functional.pad(ids, (0, 4), value=int(ids[0, 0]))
        ids[1, -4:] = ids[1, first]
        mask, attention = torch.zeros_like(ids, dtype=torch.bool), torch.ones_like(ids)
        mask[:, first] = True
        attention[:, first + 1 :] = 0
        with without_dropout(self._model):
            masked, bare = (self._whole(self._model, ids, each, mask).float() for each in (attention, None))
        right = targets[row, first].expand(2)
        losses = [functional.cross_entropy(each, right, reduction="none") for each in (masked, bare)]
        same = torch.allclose(*losses, rtol=TOLERANCE.get(self._model.dtype, 1e-3), atol=1e-4)
        if not same:
            log.warning("Padding is masked: without a mask it would change the loss.")
        return not same

    @torch.no_grad()
    def _same_both_ways(
        self, input_ids: torch.Tensor, attention: torch.Tensor, targets: torch.Tensor, shared: int
    ) -> bool | None:
        """Whether the loss is the same from a shared beginning; None if there is no loss to tell it by."""
        mask = targets != IGNORE
        if not mask.any():
            return None
        try:
            logits = self._after_prefix(self._model, input_ids, attention, mask, shared)
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            log.warning("Shared beginnings are computed for every row: %s", str(error)[:200])
            return False
        whole = self._whole(self._model, input_ids, attention, mask)
        one, other = (functional.cross_entropy(each.float(), targets[mask]).item() for each in (logits, whole))
        same = abs(one - other) <= TOLERANCE.get(whole.dtype, 1e-3) * max(1.0, abs(other))
        if not same:
            log.warning("Shared beginnings are computed for every row: the loss would be %g, not %g.", one, other)
        return same


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Let a model compute as in evaluation for a while."""
    modules = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modules:
            module.training = training


@contextmanager
def labelled_positions(head: torch.nn.Module | None, mask: torch.Tensor, aside: bool = False) -> Iterator[None]:
    """Let the output head see only the positions in ``mask`` (batch, length): its logits are (positions, vocabulary).

    ``aside`` takes the head out of the model for a while: what it would read comes out. Positions that a method
    puts in front of the sequence (virtual tokens) are passed over.
    """
    if head is None:
        yield
        return

    def select(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *others = inputs
        return (hidden[:, hidden.shape[1] - mask.shape[1] :][mask], *others)

    hook = head.register_forward_pre_hook(select)
    if aside:
        head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        hook.remove()
        if aside:
            del head.forward  # that of its class again


def shared_prefix(input_ids: torch.Tensor, attention_mask: torch.Tensor, mask: torch.Tensor) -> int:
    """How many tokens all rows of a batch begin with before the first position in ``mask``; 0 if too few to pay."""
    rows, length = input_ids.shape
    if rows < 2:
        return 0
    same = (input_ids == input_ids[:1]) & (attention_mask == 1) & ~mask
    count = min(int(same.all(0).long().cumprod(0).sum()), length - 1)
    return count if count >= _LEAST_PREFIX and count * (rows - 1) >= LEAST_SAVING * rows * length else 0


def can_share(model: torch.nn.Module) -> bool:
    """Whether rows may take their common beginning from one cache: plain causal attention and no dropout."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    if isinstance(model, PeftModel) and not isinstance(model.base_model, BaseTuner):
        return False  # virtual tokens stand before the row
    config = model.config.get_text_config()
    if getattr(config, "is_encoder_decoder", False) or not getattr(config, "use_cache", True):
        return False
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return False
    rates = [v for k, v in config.to_dict().items() if k.endswith(("dropout", "pdrop")) and isinstance(v, (int, float))]
    return not any(rates) and not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))


def _recomputes(model: torch.nn.Module) -> bool:
    """Whether activations are computed again in the backward pass, which does not go together with a cache."""
    return model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
