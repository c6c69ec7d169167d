"""What can be made of a run, the choices that there are, and what cannot be made of which run. Loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.recipe.methods import METHODS, TAKEN_STARTS, WHOLE
from studio.runs import Run
from studio.workspace import Workspace

DTYPES = ("auto", "float32", "bfloat16", "float16")
GGUF_TYPES = ("f16", "bf16", "f32", "q8_0")


@dataclass(frozen=True)
class Kind:
    """``title`` is what a person chooses, ``about`` what they get; ``name`` is that of the file or folder."""

    title: str
    about: str
    name: str


KINDS = {
    "merged": Kind("Whole model", "Safetensors that need no PEFT, with tokenizer and card.", "merged"),
    "adapter": Kind("Adapter", "The adapter as it was trained; it needs its base and PEFT.", "adapter"),
    "gguf": Kind("GGUF", "One file for llama.cpp, Ollama and LM Studio, by llama.cpp's own converter.", "model.gguf"),
    "ollama": Kind("Ollama", "The whole model with a Modelfile: the right template and stop tokens.", "ollama"),
    "snippet": Kind("Code", "Python to paste, for transformers and for vLLM.", "code"),
    "script": Kind("Training script", "The run as one file of plain TRL, with its rows beside it.", "script"),
    "hub": Kind("Hugging Face Hub", "A repository with the model and its card, private unless you say so.", "hub"),
}


@dataclass(frozen=True)
class Options:
    """The choices of all kinds; each kind looks at its own.

    Attributes:
        dtype: number format of whole weights; ``auto`` is that of the run.
        gguf_type: number format in a GGUF file.
        zip: an adapter or a script as one ``.zip`` file.
        weights: what Ollama gets: ``safetensors`` or ``gguf``.
        repo: ``owner/name`` on the Hub, or a name alone for one's own.
        private: whether a new repository is private.
        update: go on in a repository that is there already.
        what: what the Hub gets: ``adapter``, ``merged``, or ``auto`` for the adapter where there is one.
    """

    dtype: str = "auto"
    gguf_type: str = "f16"
    zip: bool = False
    weights: str = "safetensors"
    repo: str = ""
    private: bool = True
    update: bool = False
    what: str = "auto"

    def check(self) -> Options:
        """The options themselves.

        Raises:
            StudioError: one has a value that it cannot have.
        """
        allowed = {"dtype": DTYPES, "gguf_type": GGUF_TYPES, "weights": ("safetensors", "gguf")}
        allowed["what"] = ("auto", "adapter", "merged")
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise StudioError(f"{name} is {getattr(self, name)!r}.", f"Use one of: {', '.join(values)}.")
        return self


@dataclass(frozen=True)
class Exported:
    """What came out.

    Attributes:
        path: the file or folder, or the address on the Hub.
        told: one sentence for each thing worth knowing, first what the reading back has shown.
        code: title and text of what is to be pasted.
    """

    kind: str
    path: str
    told: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": self.path, "told": self.told, "code": self.code}


def refusal(recipe: Recipe, kind: str) -> StudioError | None:
    """Why a run of this recipe cannot be had as ``kind``; None if nothing in the recipe speaks against it."""
    method = METHODS[recipe.method.kind]
    whole = recipe.method.kind in WHOLE
    if kind == "adapter" and whole:
        return StudioError(f"{method.title} trains no adapter.", "Export the whole model (merged).")
    if kind in ("merged", "gguf", "ollama") and not whole and not method.merges:
        return StudioError(
            f"{method.title} adds something beside the weights, which cannot be folded into them.",
            "Export the adapter, and use it with its base through PEFT.",
        )
    if kind in ("gguf", "ollama") and recipe.model.task == "seq_cls":
        return StudioError("This model puts texts into classes; llama.cpp and Ollama write text.", "Export it merged.")
    return _no_script(recipe) if kind == "script" else None


def _no_script(recipe: Recipe) -> StudioError | None:
    """What of a run plain TRL does not do, or does differently."""
    method, train = recipe.method, recipe.train
    start = getattr(method, "init_lora_weights", "default")
    reasons = {
        "The bottleneck adapter is a tuner of this studio's own": method.kind == "bottleneck",
        "AdaLoRA is pruned between the steps by this studio, which TRL does not do": method.kind == "adalora",
        "A classifier is not trained by TRL": recipe.model.task == "seq_cls",
        "Weights in 4 or 8 bits are loaded and guarded by code of this studio": recipe.model.quantization != "none",
        f"The start {start} is made, and taken out again, by code of this studio": start
        in (*TAKEN_STARTS, "eva", "loftq"),
        "LoRA+ needs an optimizer that TRL does not make": bool(getattr(method, "loraplus_lr_ratio", 0)),
        "A run that goes on from an adapter needs that adapter": bool(recipe.model.adapter),
        "A prompt that starts from a text is put in by this studio": getattr(method, "prompt_tuning_init", "")
        == "text",
        "Several processes share the rows in this studio's own way": train.num_processes > 1,
        "TRL packs rows only for kernels of a GPU": train.packing,
        "transformers smooths labels in another way, with other losses": bool(train.label_smoothing_factor),
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if not found:
        return None
    fix = "Share the recipe itself instead: it runs with `python app.py train`."
    return StudioError(f"{'; '.join(found)}: there is no plain script with the same numbers.", fix)


def check(run: Run, kind: str) -> None:
    """Refuse what cannot be made of a run.

    Raises:
        StudioError: with the reason.
    """
    if kind not in KINDS:
        raise StudioError(f"There is no export {kind!r}.", f"Use one of: {', '.join(KINDS)}.")
    if not run.has_model:
        raise StudioError(f"The run {run.id} has no tuned model yet.", "Wait until it has finished, or stop it.")
    if reason := refusal(run.recipe, kind):
        raise reason


def place(run: Run, kind: str, to: str | Path | None, options: Options) -> Path:
    """Where an export goes: ``to``, or a new place in the workspace's ``exports``.

    Raises:
        StudioError: there is something at ``to`` already, or its folder cannot be made.
    """
    packed = options.zip and kind in ("adapter", "script")
    ending = ".zip" if packed else Path(KINDS[kind].name).suffix
    if to is None or not str(to).strip():
        folder, stem = Workspace.current().exports / run.id, Path(KINDS[kind].name).stem
        stem += f"-{options.gguf_type}" if kind == "gguf" else ""
        names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
        target = next(folder / f"{n}{ending}" for n in names if not (folder / f"{n}{ending}").exists())
    else:
        target = Path(to).expanduser().absolute()
        if ending and target.suffix != ending:
            target = target.with_name(f"{target.name}{ending}")
        if target.exists():
            raise StudioError(f"{target} exists already.", "Name a file or folder that does not.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudioError(f"{target.parent} cannot be made: {error.strerror}.", "Name another folder.") from error
    return target
