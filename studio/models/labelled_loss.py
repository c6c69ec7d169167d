"""The loss of a causal language model from the states before its output head, some positions at a time.

Of a small model with a large vocabulary the logits and what the loss makes of them are most of the memory, and of the
time beside matrix products: a position has one number for each of 49,000 tokens, in the head's format and in float32,
as logits, log-probabilities and their gradients. Here a block of positions goes through the head, the loss and the
head's backward pass before the next one, and only the gradient of the states is kept: the idea of Liger's fused linear
cross-entropy (https://arxiv.org/abs/2410.10989) and of Cut Your Losses (https://arxiv.org/abs/2411.09009), with
PyTorch's own kernels.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.nn import functional

from studio.models.blocks import block_positions, rows_together
from studio.models.head import TOLERANCE, LabelledLogits, without_dropout

log = logging.getLogger(__name__)


class LabelledLoss:
    """Summed cross-entropy of the next token over the labelled positions of a batch.

    Where the head is a plain matrix, the loss is taken from the states before it. The first batch with labels is
    computed both ways, on the beginnings of two of its rows; where the losses differ beyond rounding (a model that does
    something with its logits that is not linear), the logits are used.

    Args:
        model: as it is called: bare, or PEFT's.
        one_row: see :class:`studio.models.head.LabelledLogits`.
        whole_head: the weights are in this process as they are, and not parts of what is spread over several.
    """

    def __init__(self, model: torch.nn.Module, one_row: bool = True, whole_head: bool = True):
        self.model, self.logits = model, LabelledLogits(model, one_row)
        if not whole_head:
            self.logits.needs_mask = True  # trying it out is a matter of all processes
        self.skips_logits: bool | None = None if whole_head and _is_plain(self.logits.head) else False

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        model: Any = None,
        position_ids: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> tuple[torch.Tensor, int]:
        """The loss (float32, a scalar with gradients) and over how many positions it is summed. Arguments as those of
        :meth:`studio.models.head.LabelledLogits.__call__`; ``label_smoothing`` as that of PyTorch's cross-entropy."""
        inputs = (input_ids, attention_mask, labels, model, position_ids)
        if self.skips_logits is None:
            self.skips_logits = self._same_both_ways(input_ids, attention_mask, labels)
        states, targets, _ = self.logits(*inputs, before_head=bool(self.skips_logits))
        if not self.skips_logits:
            return _of_logits(states, targets, label_smoothing), targets.numel()
        return self._of_states(states, targets, label_smoothing), targets.numel()

    def _of_states(self, states: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        head = self.logits.head
        return _HeadLoss.apply(states.to(head.weight.dtype), head.weight, head.bias, targets, smoothing)

    @torch.no_grad()
    def _same_both_ways(self, input_ids: torch.Tensor, attention: torch.Tensor, labels: torch.Tensor) -> bool | None:
        """Whether the loss from the states is that from the logits; None if there is no label to tell it by."""
        places = (labels[:, 1:] != -100).nonzero()
        if not len(places):
            return None
        row, first = places[0].tolist()
        rows = slice(row, row + 1), slice(0, first + 18)
        some = [each[rows] for each in (input_ids, attention, labels)]
        with without_dropout(self.model):
            logits, targets, _ = self.logits(*some)
            states, _, _ = self.logits(*some, before_head=True)
        if states.dim() != 2 or states.shape[-1] != self.logits.head.weight.shape[1]:
            return False
        one, other = self._of_states(states, targets, 0.0).item(), _of_logits(logits, targets, 0.0).item()
        same = abs(one - other) <= TOLERANCE.get(states.dtype, 1e-3) * max(1.0, abs(other))
        if not same:
            log.warning("The loss is taken from all logits: from the states it would be %g, not %g.", one, other)
        return same


def _is_plain(head: torch.nn.Module | None) -> bool:
    """Whether a head is one matrix that lies whole on one device and that nothing else has a hand in."""
    return (
        type(head) is torch.nn.Linear
        and type(head.weight) is torch.nn.Parameter
        and head.weight.is_floating_point()
        and "forward" not in vars(head)  # of accelerate, which moves weights to and from the device
        and not head._forward_hooks
        and not head._forward_pre_hooks
    )


def _of_logits(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    return functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)


class _HeadLoss(torch.autograd.Function):
    """``states`` (positions, hidden), ``weight`` (vocabulary, hidden), ``bias`` (vocabulary,) or None, ``targets``
    (positions,) -> the summed loss. The gradients are made in the forward pass and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        of_states, of_weight, of_bias = ctx.needs_input_grad[:3]
        wanted = of_states or of_weight or of_bias
        total = states.new_zeros((), dtype=torch.promote_types(states.dtype, torch.float32))
        grad_states = torch.empty_like(states) if of_states else None
        grad_weight = torch.zeros_like(weight, dtype=total.dtype) if of_weight else None
        grad_bias = torch.zeros_like(bias) if of_bias else None
        size = block_positions(len(weight), states.device.type)
        for start in range(0, len(states), size):
            block, right = states[start : start + size], targets[start : start + size, None]
            grad = functional.linear(block, weight, bias)  # the logits, turned into their gradients
            for few in range(0, len(block), together := rows_together(len(weight), states.device.type)):
                rows = slice(few, few + together)
                total += _to_gradients(grad[rows], right[rows], smoothing, total.dtype, wanted)
            if not wanted:
                continue
            if of_states:
                torch.mm(grad, weight, out=grad_states[start : start + size])
            if of_weight and weight.dtype == total.dtype:
                grad_weight.addmm_(grad.t(), block)
            elif of_weight:
                grad_weight += grad.t() @ block
            if of_bias:
                grad_bias += grad.sum(0)
        ctx.save_for_backward(grad_states, None if grad_weight is None else grad_weight.to(weight.dtype), grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        grads = (None if each is None else each * grad.to(each.dtype) for each in ctx.saved_tensors)
        return *grads, None, None


def _to_gradients(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float, dtype: torch.dtype, wanted: bool
) -> torch.Tensor:
    """The loss of ``logits`` (positions, vocabulary), summed; its gradients take their place, if they are ``wanted``.

    Both are computed in ``dtype``. ``targets`` (positions, 1).
    """
    logs = functional.log_softmax(logits, dim=-1, dtype=dtype)
    total = (smoothing - 1) * logs.gather(1, targets).sum()
    if smoothing:
        total -= smoothing * logs.mean(-1).sum()
    if not wanted:
        return total
    grad = logs.exp_()
    if smoothing:
        grad -= smoothing / logits.shape[-1]
    grad.scatter_add_(1, targets, grad.new_full((1, 1), smoothing - 1).expand_as(targets))
    logits.copy_(grad)
    return total
