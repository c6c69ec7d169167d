"""Which architectures the installed transformers has, and for which task; found out without loading torch.

transformers keeps these tables in modules that import torch. They are plain literals, so they are read from the files.
"""

from __future__ import annotations

import ast
import importlib.util
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models.headers import read_config
from studio.recipe import ModelSpec

_TABLES = {  # by task: the table of transformers, and the entry in a config's auto_map
    "causal_lm": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "AutoModelForCausalLM"),
    "seq_cls": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "AutoModelForSequenceClassification"),
}
_ENCODERS = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"


def check_task(folder: Path, spec: ModelSpec, task: str | None = None) -> None:
    """Refuse a model whose architecture cannot do a task (``causal_lm``, ``seq_cls``); None takes the spec's own.

    Raises:
        StudioError: with the code ``encoder_writes_no_text``, ``task_not_supported`` or ``unknown_architecture``.
    """
    config = read_config(folder)
    kind = config.get("model_type")
    task = task or spec.task
    table, entry = _TABLES[task]
    own = config.get("auto_map")
    if spec.trust_remote_code and isinstance(own, dict) and entry in own:
        return
    if task == "causal_lm" and _is_encoder(config):
        raise StudioError(
            f"{spec.id} is an encoder and cannot generate text.",
            "Set model.task to seq_cls to put texts into classes, or choose a causal language model.",
            field="model.task",
            code="encoder_writes_no_text",
        )
    if kind in class_names(table):
        return
    if kind not in class_names("CONFIG_MAPPING_NAMES", "auto_mappings.py"):
        if own:  # its own code decides, and whether that may run is another question
            return
        raise StudioError(
            f"The architecture of {spec.id} ({kind or 'not named'}) is not known to the installed transformers.",
            "Update transformers, or choose another model.",
            field="model.id",
            code="unknown_architecture",
        )
    other = next((name for name, (names, _) in _TABLES.items() if kind in class_names(names)), None)
    what = "generate text" if task == "causal_lm" else "classify texts"
    raise StudioError(
        f"{spec.id} ({kind}) has no model in transformers that can {what}.",
        f"Set model.task to {other}, or choose another model." if other else "Choose another model.",
        field="model.task" if other else "model.id",
        code="task_not_supported",
    )


def _is_encoder(config: dict[str, Any]) -> bool:
    if config.get("model_type") not in class_names(_ENCODERS):
        return False
    if config.get("is_decoder") or config.get("is_encoder_decoder"):
        return False
    architectures = config.get("architectures")
    made_for = " ".join(map(str, architectures)) if isinstance(architectures, list) else ""
    return "CausalLM" not in made_for and "LMHead" not in made_for


@cache
def class_names(table: str, file: str = "modeling_auto.py") -> dict[str, str]:
    """One of transformers' tables of classes by ``model_type``, as it stands in ``transformers/models/auto``."""
    found = importlib.util.find_spec("transformers")
    assert found and found.origin, "transformers is not installed"
    source = (Path(found.origin).parent / "models" / "auto" / file).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        named = isinstance(node, ast.Assign) and any(getattr(target, "id", "") == table for target in node.targets)
        if named and isinstance(node.value, ast.Call) and node.value.args:
            return dict(OrderedDict(ast.literal_eval(node.value.args[0])))
    raise AssertionError(f"transformers has no table {table} in {file}")
