"""Logits where there is loss, and nowhere else: the part of a forward pass that training and evaluation share.

Three things are left out, and none changes the loss or its gradients:

- The output head sees only the positions that are labelled. On a small model with a large vocabulary most of a step is
  the head, and most positions of a chat carry no loss. The idea is that of the fused heads of Liger
  (https://arxiv.org/abs/2410.10989) and TRL, without tiles.
- Padding, and all but one copy of the tokens that all rows of a batch begin with, such as a system message: the batch
  goes through the model as one row of its different tokens, see :mod:`studio.models.flat_batch`.
- Rows that are padded on the right need no mask: the padding comes after everything that is looked at, and each
  position sees what is before it. Without a mask attention skips what lies after a position, which is half of its work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from studio.models.attention import UNDERSTAND_ROWS, register
from studio.models.flat_batch import layout_of, missing_columns

IGNORE = -100
LEAST_SAVING = 0.05  # of the places of a batch; attention takes a little longer to find its rows in one
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
log = logging.getLogger(__name__)


class LabelledLogits:
    """The logits of a causal language model at the positions whose next token is labelled.

    A batch goes through the model as one row where the model allows it: plain causal attention, no dropout. The first
    batch for which that saves something is computed both ways on two of its rows, and where the losses differ beyond
    rounding, it stays off for this model. Where these rows carry no loss, the next batch decides.

    Args:
        model: as it is called: bare, or PEFT's.
        one_row: False always gives the model rows that are padded.
    """

    def __init__(self, model: torch.nn.Module, one_row: bool = True):
        self._model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head = base.get_output_embeddings()
        self.one_row: bool | None = None if one_row and can_be_one_row(model) else False
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
        if position_ids is not None:
            with labelled_positions(self.head, mask, before_head):
                logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
            return logits if logits.dim() == 2 else logits[mask], targets[mask], mask
        if self.needs_mask is None:
            self.needs_mask = self._sees_padding(input_ids, targets)
        shared = saves(input_ids, attention_mask, mask) if self.one_row is not False else None
        if shared is not None and self.one_row is None:
            self.one_row = self._same_both_ways(input_ids[:2], attention_mask[:2], targets[:2])
        if shared is not None and self.one_row:
            logits = self._as_one_row(model, input_ids, attention_mask, mask, shared, before_head)
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

    def _as_one_row(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention: torch.Tensor,
        mask: torch.Tensor,
        shared: int,
        before_head: bool = False,
    ) -> torch.Tensor:
        longest, more = input_ids.shape[1], missing_columns(attention, shared)
        places = torch.arange(longest + more, device=mask.device).clamp(max=longest - 1).expand(len(input_ids), -1)
        input_ids, attention, mask = (functional.pad(each, (0, more)) for each in (input_ids, attention, mask))
        layout, tokens = layout_of(attention, shared)
        ids, positions, wanted = (each.flatten()[tokens][None] for each in (input_ids, places, mask))
        with labelled_positions(self.head, wanted, before_head):
            logits = model(input_ids=ids, attention_mask=layout, position_ids=positions, use_cache=False).logits
        return logits if logits.dim() == 2 else logits[wanted]

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
    def _same_both_ways(self, input_ids: torch.Tensor, attention: torch.Tensor, targets: torch.Tensor) -> bool | None:
        """Whether the loss is the same from one row; None if there is no loss to tell it by."""
        mask = targets != IGNORE
        if not mask.any():
            return None
        try:
            logits = self._as_one_row(
                self._model, input_ids, attention, mask, shared_prefix(input_ids, attention, mask)
            )
        except (TypeError, ValueError, AttributeError, RuntimeError, LookupError, AssertionError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            log.warning("Rows are padded: %s", str(error)[:200])
            return False
        whole = self._whole(self._model, input_ids, attention, mask)
        one, other = (functional.cross_entropy(each.float(), targets[mask]).item() for each in (logits, whole))
        same = abs(one - other) <= TOLERANCE.get(whole.dtype, 1e-3) * max(1.0, abs(other))
        if not same:
            log.warning("Rows are padded: as one row their loss would be %g, not %g.", one, other)
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


def contiguous_head_input(model: torch.nn.Module) -> Callable[[], None]:
    """Let a model's output head read its input as a tensor of its own, until what is returned is called.

    The states of the last tokens alone are a part of a larger tensor. PyTorch 2.13 then copies a bfloat16 weight for
    every row on a CPU: 95 ms for one row and 344 for four where the product itself takes 4 and 6 (49,152 x 576).
    """
    head = model.get_output_embeddings()
    return head.register_forward_pre_hook(_compact).remove if head is not None else lambda: None


def _compact(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    hidden, *others = inputs
    part = hidden.dim() == 3 and hidden.stride(0) != hidden.shape[1] * hidden.shape[2]
    return (hidden.clone(memory_format=torch.contiguous_format) if part else hidden, *others)


def shared_prefix(input_ids: torch.Tensor, attention_mask: torch.Tensor, mask: torch.Tensor) -> int:
    """How many tokens all rows of a batch begin with before the first position in ``mask``."""
    same = (input_ids == input_ids[:1]) & (attention_mask == 1) & ~mask
    return min(int(same.all(0).long().cumprod(0).sum()), input_ids.shape[1] - 1) if len(input_ids) > 1 else 0


def saves(input_ids: torch.Tensor, attention_mask: torch.Tensor, mask: torch.Tensor) -> int | None:
    """How many tokens the rows share, if one row saves enough to matter; None where it does not."""
    shared = shared_prefix(input_ids, attention_mask, mask)
    less = mask.numel() - int(attention_mask.sum()) + shared * (len(mask) - 1)
    return shared if less >= LEAST_SAVING * mask.numel() else None


def can_be_one_row(model: torch.nn.Module) -> bool:
    """Whether attention understands a batch as one row, and nothing else depends on how it is put together."""
    register()
    return attends_plainly(model) and model.config.get_text_config()._attn_implementation in UNDERSTAND_ROWS


def attends_plainly(model: torch.nn.Module) -> bool:
    """Whether tokens with the same tokens before them get the same states: plain causal attention and no dropout."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    if isinstance(model, PeftModel) and not isinstance(model.base_model, BaseTuner):
        return False  # virtual tokens stand before the row
    config = model.config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return False
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return False
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return False
    own = {k: v for k, v in config.to_dict().items() if not k.startswith(("classifier", "summary"))}  # not other heads'
    rates = [v for k, v in own.items() if k.endswith(("dropout", "pdrop")) and isinstance(v, (int, float))]
    return not any(rates) and not any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))
