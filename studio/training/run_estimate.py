"""What a run will take, before it starts: rows, steps, parameters, memory. Loads the data, never the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.jobs.progress import Report, quiet
from studio.recipe import ModelSpec, Recipe
from studio.training.step_count import planned_steps

EVENT_BYTES = 600
"""Of a step on the disk: its line in events.jsonl, at most 400 bytes, and its columns in curves.safetensors."""


@dataclass(frozen=True)
class Forecast:
    """Steps and parameters are exact where the model is on this disk; memory is an estimate, and the disk is what the
    run takes at most (bytes, by part)."""

    trainable_parameters: int
    total_parameters: int
    steps: int
    memory_bytes: dict[str, int]
    disk_bytes: dict[str, int]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As ``python app.py estimate --json`` prints it."""
        names = ("trainable_parameters", "total_parameters", "steps", "memory_bytes", "disk_bytes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Workload:
    """What there is to train on: ``rows`` (packed ones, if they are packed), tokens of the ``longest`` one (None: not
    known), tokens that are new."""

    rows: int
    longest: int | None = None
    new_tokens: int = 0


def forecast(recipe: Recipe, progress: Report = quiet) -> Forecast:
    """What a run of ``recipe`` takes on this machine. Of a model on the Hub only config.json is fetched.

    Raises:
        StudioError: the data or the model cannot be had, or the model's architecture is not known.
    """
    from studio.models.headers import read_config
    from studio.models.memory_estimate import estimate
    from studio.models.methods import training_dtype
    from studio.training.device import pick_device

    folder = _folder(recipe.model, progress)
    config = read_config(folder) if folder else hub_config(recipe.model, progress)
    work = workload(recipe, folder, progress)
    here = pick_device("auto")
    device = here if recipe.train.device == "auto" else recipe.train.device
    sizes = estimate(
        recipe,
        config,
        device=device,
        dtype=training_dtype(recipe, device) if device in (here, "cpu") else None,  # a GPU elsewhere cannot be asked
        length=work.longest,
        new_tokens=work.new_tokens,
        folder=folder,
    )
    notes = list(sizes.notes)
    if work.longest is None:
        notes.append(f"{recipe.model.id} is not on this disk: rows are taken to be whole and of the greatest length.")
    steps = planned_steps(work.rows, recipe.train)
    return Forecast(
        sizes.trainable_parameters,
        sizes.total_parameters,
        steps,
        sizes.memory_bytes,
        with_events(sizes.disk_bytes, steps),
        tuple(notes),
    )


def with_events(disk_bytes: dict[str, int], steps: int) -> dict[str, int]:
    """What a run takes of the disk, its curves included."""
    events = EVENT_BYTES * steps
    return {**disk_bytes, "events": events, "total": disk_bytes["total"] + events}


def workload(recipe: Recipe, folder: Path | None, progress: Report = quiet) -> Workload:
    """The rows that the worker's encoder keeps of the training split; without a model folder no row is encoded.

    Raises:
        StudioError: the data cannot be read, or no row is left.
    """
    from studio.data import encode_once, find_classes, load_conversations, split_conversations
    from studio.data.pack import pack

    progress("Reading the data", 0, 0)
    task = recipe.model.task
    rows, _ = split_conversations(load_conversations(recipe.data, task=task), recipe.data, recipe.train.seed, task)
    classes = find_classes(rows["label"]) if task == "seq_cls" else None
    if folder is None:
        return Workload(len(rows))
    from studio.models.classification import prepare
    from studio.models.load import load_tokenizer

    tokenizer = load_tokenizer(folder, trust_remote_code=recipe.model.trust_remote_code)
    notes = prepare(tokenizer, None, recipe)
    kept, _ = encode_once(
        tokenizer, rows, recipe.data, lambda done: progress("Encoding the data", done, len(rows)), classes
    )
    lengths = [len(example.input_ids) for example in kept]
    count = len(pack(lengths, recipe.data.max_length)) if recipe.train.packing else len(lengths)
    return Workload(count, max(lengths), len(notes.new_token_ids))


def _folder(model: ModelSpec, progress: Report) -> Path | None:
    """The model's folder; None if it would have to be downloaded from the Hub."""
    from studio.models.store import fetch, local_folder

    folder = local_folder(model)
    on_the_hub = not model.id.startswith("builtin/") and not Path(model.id).expanduser().exists()
    return folder or (None if on_the_hub else fetch(model, progress=progress))


def hub_config(model: ModelSpec, progress: Report = quiet) -> dict[str, Any]:
    """config.json of a Hub model, and nothing else of it.

    Raises:
        StudioError: wrong id or revision, gated, or the Hub does not answer.
    """
    import json

    from huggingface_hub import hf_hub_download

    from studio import hub_status
    from studio.models.hub_models import check_id
    from studio.models.problems import explain, no_network
    from studio.workspace import Workspace

    check_id(model.id)
    if not hub_status.answers():
        raise no_network(model.id)
    progress("Asking the Hugging Face Hub", 0, 0)
    try:
        path = hf_hub_download(
            model.id,
            "config.json",
            revision=model.revision,
            cache_dir=Workspace.current().downloads / "configs",
            endpoint=hub_status.endpoint(),
        )
    except Exception as error:
        raise explain(error, model.id, model.revision) from error
    return json.loads(Path(path).read_text(encoding="utf-8"))
