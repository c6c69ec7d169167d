"""Whether what was written says what the run says: the logits of both on a few of the run's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from studio.data.classes import Classes
from studio.errors import StudioError
from studio.models.weight_check import check_loaded
from studio.runs import Run

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1, "f32": 1e-4, "f16": 2e-2, "bf16": 1e-1, "q8_0": 1.5e-1}
"""The largest difference that rounding the weights may make, as a share of the largest logit. On SmolLM2-135M it was
2.5e-6 in float32, 9.6e-4 in float16 and 4.7e-2 in bfloat16: rounding adds up over the layers."""

_ROWS = 4
_TOKENS = 256  # of each row
_LOOKED_AT = 200  # rows, until enough are found
_PLAIN = ("What is the capital of France?", "Write a short greeting.", "My order has not arrived yet.", "1 2 3 4 5")


@dataclass(frozen=True)
class Check:
    """How far two models are apart. ``largest`` and ``scale`` are logits; ``agree`` counts equal likeliest tokens."""

    rows: int
    positions: int
    largest: float
    scale: float
    agree: int

    @property
    def share(self) -> float:
        return self.largest / self.scale if self.scale else self.largest

    def told(self, what: str) -> str:
        return (
            f"Checked on {self.rows} of the run's rows: {what} is within {self.largest:.2g} of the run's logits "
            f"({self.share:.1e} of the largest), and {self.agree:,} of {self.positions:,} likeliest tokens are equal."
        )


def some_rows(run: Run, tokenizer: Any, classes: Classes | None) -> list[list[int]]:
    """Token ids of a few rows of the run's dataset; of plain sentences, if the dataset cannot be read any more."""
    from studio.data import encode_row, read_conversations

    recipe, found = run.recipe, []
    try:
        for conversation in islice(read_conversations(recipe.data, task=recipe.model.task).conversations, _LOOKED_AT):
            if conversation.dropped is None:
                encoded = encode_row(tokenizer, conversation.content(), recipe.data, classes)
                found += [] if encoded.dropped else [encoded.input_ids[:_TOKENS]]
            if len(found) == _ROWS:
                break
    except StudioError:  # the dataset has moved or changed; any text tells two models apart
        found = []
    return found or [tokenizer(text)["input_ids"] for text in _PLAIN]


def logits(model: Any, rows: Sequence[list[int]]) -> list[Any]:
    """For each row its logits: float32, (tokens, vocabulary), or (1, classes) of a classifier."""
    import torch

    model.eval()
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([row])).logits.float() for row in rows]
    return [each[0] if each.dim() == 3 else each for each in found]


def compare(expected: Sequence[Any], found: Sequence[Any]) -> Check:
    """How far the logits of a model are from those that were expected, row by row."""
    largest = max((one - other).abs().max().item() for one, other in zip(expected, found, strict=True))
    scale = max(one.abs().max().item() for one in expected)
    same = [(one.argmax(-1) == other.argmax(-1)) for one, other in zip(expected, found, strict=True)]
    return Check(len(same), sum(s.numel() for s in same), largest, scale, sum(int(s.sum()) for s in same))


def demand(check: Check, dtype: str, what: str) -> Check:
    """The check itself.

    Raises:
        StudioError: the difference is more than the number format explains, or is not a number.
    """
    if not check.share <= TOLERANCE[dtype]:
        raise StudioError(
            f"{what} does not say what the run says: its logits are up to {check.largest:.3g} apart "
            f"({check.share:.1e} of the largest; {TOLERANCE[dtype]:.0e} is what {dtype} explains). It was not kept.",
            "Try float32. If it is the same there, please report it with the run's recipe.",
        )
    return check


def read_back(folder: Path, classes: Classes | None, trusted: bool) -> Any:
    """A whole model as anybody would load it from ``folder``, computing in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from studio.models.remote_code import may_run

    trusted = may_run(folder, trusted, copied=True)
    kind = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    options = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    model, loaded = kind.from_pretrained(folder, trust_remote_code=trusted, **options)
    check_loaded(loaded, str(folder), "Export it again.")
    return model


def stop_tokens(folder: Path, tokenizer: Any) -> list[int]:
    """The tokens that end an answer of the model in ``folder``, as the studio's own chat takes them."""
    from transformers import GenerationConfig

    from studio.data.stops import stop_ids

    has = (folder / "generation_config.json").exists()
    settings = GenerationConfig.from_pretrained(folder) if has else GenerationConfig.from_model_config(_config(folder))
    return sorted(stop_ids(tokenizer, settings))


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
