"""Values of a column as text: numbers as the source writes them, and the types of Parquet and Arrow tables."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID


class WrittenFloat(float):
    """A number of a JSON source that keeps how it was written there: ``1e5``, ``1.10``."""

    __slots__ = ("written",)

    def __new__(cls, written: str) -> WrittenFloat:
        made = super().__new__(cls, written)
        made.written = written
        return made

    def __reduce__(self) -> tuple:
        return WrittenFloat, (self.written,)


def scalar_text(value: Any) -> str | None:
    """Return a single value as text; None if it has no text (a list, an object, NaN, binary data).

    Booleans are ``true`` and ``false``, as in JSON. Dates and times are in ISO format with a space in between.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, WrittenFloat):
        return value.written
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else None
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (timedelta, UUID)):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return None


def without_table_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a Parquet or Arrow table without the nulls that the table adds.

    A struct has the fields of all rows, so an object in one row gets a null for each field that only others have.
    A null that was in the source cannot be told from these, and goes too. Nested values get JSON's types.
    """
    return {name: _plain(value) if isinstance(value, (dict, list)) else value for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        if value and all(isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) for one in value):
            return {key: _plain(inner) for key, inner in value}  # Arrow's map type
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    text = scalar_text(value)
    return value if text is None else text
