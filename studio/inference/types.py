"""The plain values of generation: what to speak with, how to sample, and what comes out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from studio.errors import StudioError
from studio.recipe import ModelSpec, Recipe, is_template_file
from studio.runs import Run


@dataclass(frozen=True)
class Target:
    """A model to speak with: a base model, the tuned model of a run, one of its checkpoints, or any PEFT adapter.

    Attributes:
        name: how it is called in results: ``base``, ``base:ID``, the run's id, ``RUN@STEP``, or ``adapter:NAME``.
        model: the base model (``kind`` is ``base``).
        chat_template: the base's ``data.chat_template``, which decides its prompt and its vocabulary.
        special_tokens_in_text: the base's ``data.special_tokens_in_text``.
        run_id: the run (``kind`` is ``run`` or ``checkpoint``).
        adapter: a folder or a Hub id (``kind`` is ``adapter``); ``model`` is then its base, or None for the one that
            the adapter names itself.
        step: the checkpoint's (``kind`` is ``checkpoint``).
    """

    kind: Literal["base", "run", "checkpoint", "adapter"]
    name: str
    model: ModelSpec | None = field(default=None, hash=False)
    chat_template: str = "auto"
    run_id: str = ""
    adapter: str = ""
    step: int = 0
    special_tokens_in_text: str = "special"

    @classmethod
    def base(
        cls, model: ModelSpec, chat_template: str = "auto", name: str = "", special_tokens_in_text: str = "special"
    ) -> Target:
        """A base model, prompted by a recipe's ``data.chat_template`` and ``data.special_tokens_in_text``."""
        name = name or f"base:{model.id}"
        return cls(
            "base", name, model=model, chat_template=chat_template, special_tokens_in_text=special_tokens_in_text
        )

    @classmethod
    def run(cls, run_id: str) -> Target:
        """The tuned model of a run."""
        return cls("run", run_id, run_id=run_id)

    @classmethod
    def base_of(cls, run: Run, name: str = "") -> Target:
        """The base model under a run, at the revision that was trained on, prompted as the run is."""
        recipe = run.recipe
        typed = recipe.data.special_tokens_in_text
        return cls.base(pinned_model(recipe), template_of(run, recipe), name=name, special_tokens_in_text=typed)

    @classmethod
    def pair(cls, name: str) -> tuple[Target, Target]:
        """The base and the tuned model of a run's id, of ``RUN@STEP`` or of ``adapter:NAME``.

        Raises:
            StudioError: there is no such run or adapter.
        """
        tuned = cls.parse(name)
        return tuned.base_below(), tuned

    def base_below(self, name: str = "") -> Target:
        """The base model that this one was tuned from; a base is its own.

        Raises:
            StudioError: there is no such run or adapter.
        """
        if self.kind == "base":
            return self
        if self.kind == "adapter":
            from studio.models.initial_adapter import base_of, find_adapter

            folder = find_adapter(self.adapter)
            spec = self.model or ModelSpec(id=base_of(folder))
            return Target.base(spec, name=name, special_tokens_in_text=saved_special_tokens_in_text(folder))
        return Target.base_of(Run.open(self.run_id), name=name)

    @classmethod
    def parse(cls, text: str) -> Target:
        """``base`` (the default recipe's model), ``base:MODEL`` (built-in name, Hub id or path), ``adapter:NAME`` (a
        folder or Hub id with a PEFT adapter), a run's id, or ``RUN@STEP`` for one of its checkpoints.

        Raises:
            StudioError: the text is empty, or the step is not a number.
        """
        text = text.strip()
        if not text or text == "base:":
            raise StudioError("No model is named.", "Name a run's id, base, or base:MODEL.")
        if text == "base":
            return cls.base(Recipe().model, name="base")
        if text.startswith("base:"):
            return cls.base(ModelSpec(id=text.removeprefix("base:")), name=text)
        if text.startswith("adapter:"):
            return cls("adapter", text, adapter=text.removeprefix("adapter:"))
        run_id, at, step = text.partition("@")
        if not at:
            return cls.run(text)
        if not (step.isascii() and step.isdigit()):
            raise StudioError(f"{text} names no checkpoint.", "Write RUN@STEP with the step as a number.")
        return cls("checkpoint", f"{run_id}@{int(step)}", run_id=run_id, step=int(step))

    @classmethod
    def parse_all(cls, texts: list[str]) -> list[Target]:
        """:meth:`parse` for several; a bare ``base`` is the base below the first that is not a base itself.

        Raises:
            StudioError: the first run or adapter does not exist.
        """
        targets = [cls.parse(text) for text in texts]
        first = next((t for t in targets if t.kind != "base"), None)
        if first is None or all(t.name != "base" for t in targets):
            return targets
        base = first.base_below("base")
        return [base if t.name == "base" else t for t in targets]


def pinned_model(recipe: Recipe) -> ModelSpec:
    """A recipe's model at the commit that was really trained on, where the run has recorded one."""
    return recipe.pinned_model


def saved_special_tokens_in_text(folder: Path) -> str:
    """Return the ``data.special_tokens_in_text`` that was saved with the tokenizer in a folder."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # an adapter may come without a tokenizer; a damaged one is reported on loading
        return "special"
    return "text" if isinstance(config, dict) and config.get("special_tokens_in_text") == "text" else "special"


def template_of(run: Run, recipe: Recipe) -> str:
    """A run's ``data.chat_template``; for a file of the user's, the copy that the run has kept, once it has one."""
    kept = run.model_dir / "chat_template.jinja"
    if is_template_file(recipe.data.chat_template) and kept.exists():
        return str(kept)
    return recipe.data.chat_template


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token (greedy); higher is more varied.
        top_p: keep the likeliest tokens that together have this probability; 1 keeps all.
        top_k: keep so many of the likeliest tokens; 0 keeps all.
        min_p: keep the tokens that are at least this share as likely as the likeliest one
            (https://arxiv.org/abs/2407.01082); 0 keeps all.
        repetition_penalty: above 1 makes tokens that were there before less likely (https://arxiv.org/abs/1909.05858).
        max_new_tokens: the answer is cut after so many tokens.
        seed: the same seed gives the same text, whatever else is generated at the same time.

    Raises:
        StudioError: a value is out of its bounds; ``field`` names it.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        bounds = {
            "temperature": (0 <= self.temperature <= 10, "a value from 0 (greedy) to 10"),
            "top_p": (0 < self.top_p <= 1, "more than 0, at most 1"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "min_p": (0 <= self.min_p < 1, "a value from 0 (all tokens) to less than 1"),
            "repetition_penalty": (0 < self.repetition_penalty <= 10, "more than 0, at most 10; 1 is none"),
            "max_new_tokens": (1 <= self.max_new_tokens <= 1_048_576, "a value from 1 to 1,048,576"),
            "seed": (0 <= self.seed < 2**63, "0 or more"),
        }
        for name, (sound, allowed) in bounds.items():
            if not sound:
                raise StudioError(f"{name} is {getattr(self, name)}.", f"Choose {allowed}.", field=name)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


Finished = Literal["end", "length", "stopped", "failed"]


@dataclass(frozen=True)
class Piece:
    """A piece of a streamed answer; the last one has ``finished`` set.

    Attributes:
        text: what is new since the piece before; whole characters only.
        new_tokens: tokens generated so far, the end-of-turn token included.
        seconds: since the prompt was handed in.
        first_token_seconds: from there to the first token; None before it.
        finished: ``end`` (the model ended its turn), ``length`` (``max_new_tokens`` or the context is used up),
            ``stopped`` (asked to), ``failed`` (see ``error``), or None while it goes on.
        error: what went wrong, if it failed.
        log_probability: natural logarithm of the probability that the model itself gave to the newest token, before
            temperature, penalty and cuts; None in a piece without a token of its own.
    """

    text: str
    new_tokens: int
    seconds: float
    first_token_seconds: float | None = None
    finished: Finished | None = None
    error: StudioError | None = None
    log_probability: float | None = None
