"""Plain values to HTML: cards, messages, bars, the recipe at a glance. Every text that is not ours is escaped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from html import escape
from typing import Any

from studio.errors import StudioError, StudioErrors

LOGO = (
    '<svg viewBox="0 0 24 24" fill="none" aria-hidden="true">'
    '<rect x="1" y="1" width="22" height="22" rx="6" fill="#4f46e5"/>'
    '<path d="M5 7c3 0 3.5 9 7 9s3-5 7-6" stroke="#fff" stroke-width="2.2" stroke-linecap="round"/></svg>'
)


def message(kind: str, what: str, fix: str = "", details: str = "") -> str:
    """A coloured box; ``kind`` is ``bad``, ``warn``, ``good`` or ``calm``. ``details`` are folded."""
    mark = {"bad": "✕ ", "warn": "! ", "good": "✓ ", "calm": ""}[kind]
    folded = f"<details><summary>Details</summary><pre>{escape(details)}</pre></details>" if details else ""
    role = "alert" if kind == "bad" else "status"
    return f'<div class="message {kind}" role="{role}"><b>{mark}{escape(what)}</b> {escape(fix)}{folded}</div>'


def problem(error: StudioError) -> str:
    """A refusal, or several."""
    many = error.problems if isinstance(error, StudioErrors) else [error]
    return "".join(message("bad", p.what, p.fix) for p in many)


def empty(title: str, text: str) -> str:
    """An empty state: says what to do."""
    return f'<div class="empty"><b>{escape(title)}</b>{escape(text)}</div>'


def working(what: str, done: int = 0, total: int = 0, unit: str = "", left: float | None = None) -> str:
    """Progress with words; without a ``total`` the bar only shows that something is going on."""
    if total:
        share = min(1.0, done / total)
        counted = f"{size(done)} of {size(total)}" if unit == "bytes" else f"{done:,} of {total:,} {unit}".strip()
        time_left = f", about {duration(left)} left" if left is not None else ""
        bar = f'<div class="bar"><i style="width:{share * 100:.1f}%"></i></div>'
        return f'<div class="message calm" role="status"><b>{escape(what)}</b> {counted}{time_left}{bar}</div>'
    return f'<div class="message calm" role="status"><b>{escape(what)}</b><div class="bar unknown"><i></i></div></div>'


def facts(pairs: list[tuple[str, str]]) -> str:
    """Named values side by side."""
    return '<div class="facts">' + "".join(f"<div>{escape(k)}<b>{escape(v)}</b></div>" for k, v in pairs) + "</div>"


def tiles(pairs: list[tuple[str, str]], columns: int = 6) -> str:
    """A few numbers that are watched; four or six in a row."""
    cells = "".join(f'<div class="tile">{escape(k)}<b>{escape(v)}</b></div>' for k, v in pairs)
    return f'<div class="tiles of-{columns}">{cells}</div>'


def size(count: float) -> str:
    """Bytes as a person reads them (1 GB is 10^9 bytes)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(count: float) -> str:
    """A large number in short: 134.5 M."""
    for unit in ("", " k", " M", " B"):
        if abs(count) < 1000:
            return f"{count:.0f}{unit}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f} T"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds < 600 else f"{seconds // 60} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def ago(moment: float) -> str:
    """A unix time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def model_card(card: Any) -> str:
    """The card of a model (``studio.models.model_info.ModelCard``)."""
    pairs = [
        ("Architecture", card.architecture or "not stated"),
        ("Parameters", number(card.parameters) if card.parameters else "not known"),
        ("Context", f"{card.context_length:,} tokens" if card.context_length else "not stated"),
        ("Vocabulary", f"{card.vocabulary:,} tokens" if card.vocabulary else "not stated"),
        ("Weights stored as", card.dtype or "not stated"),
        ("Size on disk", size(card.size_bytes)),
        ("Chat template", card.template),
        ("Licence", card.licence or "not stated"),
    ]
    return facts(pairs) + "".join(f'<p class="note">{escape(note)}</p>' for note in card.notes)


MEMORY_PARTS = {
    "weights": "#64748b",
    "adapters": "#0d9488",
    "gradients": "#d97706",
    "optimizer": "#7c3aed",
    "activations": "#2563eb",
    "context": "#94a3b8",
}
PART_WORDS = {"context": "overhead"}


def memory_bar(parts: dict[str, int], machine: dict[str, Any]) -> str:
    """Estimated memory as a stacked bar against what the device has, with a legend."""
    total, room = parts["total"], max(1, machine["total_bytes"])
    shown = [(PART_WORDS.get(name, name), parts[name], ink) for name, ink in MEMORY_PARTS.items() if parts.get(name)]
    scale = max(total, room)
    cells = "".join(
        f'<i style="width:{value / scale * 100:.2f}%;background:{ink}" title="{name} {size(value)}"></i>'
        for name, value, ink in shown
    )
    legend = "".join(f'<span><i style="background:{ink}"></i>{name} {size(value)}</span>' for name, value, ink in shown)
    verdict = "" if total <= room else " This is more than the device has."
    return (
        f"<div><b>{size(total)}</b> of {size(room)} on {escape(machine['device'])}.{verdict}"
        f'<div class="bar">{cells}</div><div class="legend">{legend}</div></div>'
    )


def glance(
    rows: list[tuple[str, str, str]],
    problems: list[StudioError],
    warnings: Sequence[StudioError] = (),
    *,
    waiting: bool = False,
    invalid: Sequence[str] = (),
) -> str:
    """The recipe at a glance, and what still stands in the way of launching.

    Args:
        warnings: what is probably a mistake.
        waiting: whether the model and the first rows are still being examined.
        invalid: the ``elem_id`` of each field with a problem; assets/page.js marks them.
    """
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}{f'<br><small>{escape(more)}</small>' if more else ''}</dd>"
        for name, value, more in rows
    )
    said = "".join(message("bad", p.what, p.fix) for p in problems)
    said += "".join(message("warn", w.what, w.fix) for w in warnings)
    state = "✓ Ready to start."
    if problems:
        state = ""
    elif waiting:
        state = "Checking the model and the first rows…"
    elif warnings:
        state = "Ready to launch, with a warning." if len(warnings) == 1 else "Ready to launch, with warnings."
    ready = f'<p class="note state">{state}</p>' if state else ""
    marks = escape(json.dumps(list(invalid)))
    return (
        f'<div class="panel" data-invalid="{marks}"><h3>Recipe</h3><dl>{listed}</dl></div>'
        f'{ready}<div class="said">{said}</div>'
    )
