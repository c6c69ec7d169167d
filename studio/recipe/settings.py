"""What a field of the recipe is made of: its default, help, unit, bounds and source, once."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    advanced: bool = False,
    link: str = "",
    lines: bool = False,
    step: float | Literal["factor"] | None = None,
    encoder: bool = False,
    **bounds: Any,
) -> Any:
    """A recipe field: its default, one plain sentence of help, pydantic's bounds (``ge``, ``le``, ``gt``, ``lt``).

    ``lines`` says that a list of texts is written one a line, since there may be commas in them. ``step`` is what one
    arrow key changes in the form (see :func:`step_of`); ``factor`` goes 1, 2, 5, 10, for values of any magnitude.
    ``encoder`` says that the setting changes how a conversation becomes an example, not the conversation itself.
    """
    extra = {"unit": unit, "advanced": advanced, "link": link, "lines": lines, "step": step, "encoder": encoder}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """Base of all parts of a recipe: unknown keys are errors, values are checked."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), validate_default=True)


def limits_of(field: FieldInfo | None) -> dict[str, float]:
    """The bounds of a field: any of ``ge``, ``gt``, ``le`` and ``lt`` with its number."""
    limits = {}
    for item in field.metadata if field else []:
        limits |= {k: getattr(item, k) for k in ("ge", "gt", "le", "lt") if getattr(item, k, None) is not None}
    return limits


def step_of(field: FieldInfo) -> float | Literal["factor"]:
    """By how much one arrow key changes a number in the form: what the field declares; otherwise 1, or 0.05 for a
    fraction that cannot exceed 1."""
    declared = (field.json_schema_extra or {}).get("step")
    if declared is not None:
        return declared
    limits = limits_of(field)
    highest = limits.get("le", limits.get("lt", float("inf")))
    fractional = field.annotation is float or float in get_args(field.annotation)
    return 0.05 if fractional and highest <= 1 else 1


def bounds(field: FieldInfo | None) -> str:
    """A field's bounds as one sentence (``Choose a value from 1 to 1024.``), or nothing if it has none."""
    limits = limits_of(field)
    low = f"{limits['ge']:,}" if "ge" in limits else f"more than {limits['gt']:,}" if "gt" in limits else ""
    high = f"{limits['le']:,}" if "le" in limits else f"less than {limits['lt']:,}" if "lt" in limits else ""
    if low and high and limits.keys() & {"gt", "lt"}:
        least = f"above {limits['gt']:,}" if "gt" in limits else f"of at least {low}"
        most = f"below {limits['lt']:,}" if "lt" in limits else f"at most {high}"
        return f"Choose a value {least} and {most}."
    if low and high:
        return f"Choose a value from {low} to {high}."
    return f"Choose {low if 'gt' in limits else 'at least ' + low}." if low else ""
