"""How the panes of the Compare tab look: a head with the model's name, the turns, and what can be done with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from studio.ui import markup, views
from studio.ui.compare import contrast
from studio.ui.runs.names import model_name

VIEWS = ("Rendered", "Plain text", "Differences", "Probabilities")
MARKS = {"base": "●", "tuned": "◆", "third": "▲", "fourth": "■", "fifth": "★", "blind": "?"}
_SYSTEM = "system"


@dataclass(frozen=True)
class Head:
    """Who speaks in a pane: what is written over it, its colour (a key of ``MARKS``), and the model's whole name."""

    label: str
    kind: str
    title: str = ""

    @property
    def text(self) -> str:
        return f"{MARKS[self.kind]} {self.label}"


def heads(names: list[str], base_id: str = "") -> list[Head]:
    """The heads of these models, each with a colour of its own: the first base and the first other one keep theirs.

    Args:
        names: as ``Target.parse`` reads them; empty where none is chosen.
        base_id: what a bare ``base`` stands for, where it is known.
    """
    others, taken, found = iter(("third", "fourth", "fifth")), set(), []
    for name in names:
        wanted = "base" if name == "base" or name.startswith("base:") else "tuned"
        kind = next(others) if wanted in taken else wanted
        taken.add(kind)
        found.append(Head(_label(name, base_id), kind, name))
    labels = [head.label for head in found]
    return [
        replace(head, label=f"{head.label} ({head.title})")
        if _is_run(head.title) and labels.count(head.label) > 1
        else head
        for head in found
    ]


def _is_run(name: str) -> bool:
    return bool(name) and not name.startswith(("base", "adapter:"))


def _label(name: str, base_id: str) -> str:
    """What stands over a pane: the kind of model and its name, the run's own one where a person gave it one."""
    if name == "base":
        return f"Base · {base_id}" if base_id else "Base"
    if name.startswith("base:"):
        return f"Base · {name.removeprefix('base:')}"
    if name.startswith("adapter:"):
        return f"Adapter · {name.removeprefix('adapter:')}"
    if "@" in name:
        return f"Checkpoint · {model_name(name)}"
    return f"Tuned · {model_name(name)}" if name else "Tuned"


def draw(
    panes: list[list[dict]], heads: list[Head], view: str = VIEWS[0], *, below: str = "", editable: bool = True
) -> str:
    """All panes. A turn is ``{"role", "content"}``, with ``stats``, ``odds`` and ``writing`` for an answer.

    A user turn that could not be answered has the reason as its ``error``; an answer whose model is still on its way is
    ``opening``.

    Args:
        view: one of ``VIEWS``.
        below: HTML under the panes.
        editable: whether turns offer to be changed.
    """
    going = any(turn.get("writing") for turns in panes for turn in turns)
    editable = editable and not going
    cells = []
    for number, (turns, head) in enumerate(zip(panes, heads, strict=True)):
        shown = [turn for turn in turns if turn["role"] != _SYSTEM]
        body = "".join(
            _turn(turn, number, _round(shown, at), view, _rivals(panes, number, _round(shown, at)), editable)
            for at, turn in enumerate(shown)
        )
        body = body or f'<div class="note">{_hint(head)}</div>'
        writing = any(turn.get("writing") for turn in turns)
        stop = _button("stop", "Stop", f"Stop the answer of {head.label}", number) if writing else ""
        said, title = markup.escape(head.text), markup.escape(head.title or head.text)
        cells.append(
            f'<section class="pane {head.kind}" aria-label="{markup.escape(head.label)}" data-pane="{number}"><header>'
            f'<span class="who" title="{title}">{said}</span>{stop}</header><div class="turns">{body}</div></section>'
        )
    return f'<div class="panes of-{len(cells)}" data-going="{int(going)}">{"".join(cells)}</div>{below}'


def _hint(head: Head) -> str:
    if head.label == "Tuned":
        return "Choose a model above, or start a training run first."
    if head.kind == "blind":
        return "Its answer appears here."
    return "Ask something below to see the answer."


def _round(turns: list[dict], at: int) -> int:
    """The number of the prompt that a turn belongs to, from 0."""
    return sum(turn["role"] == "user" for turn in turns[: at + 1]) - 1


def _rivals(panes: list[list[dict]], number: int, prompt: int) -> list[str]:
    """What the first other pane answers to the same prompt, if it does: the first pane's, or the second's for it."""
    other = panes[1 if number == 0 else 0] if len(panes) > 1 else []
    return [t["content"] for at, t in enumerate(other) if t["role"] == "assistant" and _round(other, at) == prompt][:1]


def _turn(turn: dict, pane: int, prompt: int, view: str, rivals: list[str], editable: bool) -> str:
    role = turn["role"]
    text, left = markup.cut(turn["content"])
    if role == "assistant":
        body = '<span class="note">Loading the model…</span>' if turn.get("opening") else _answer(turn, view, rivals)
    else:
        body = markup.plain(text)
    more = ""
    if left:
        whole = _button("whole", "Save it whole", "Save the whole text as a file", pane, prompt=prompt, role=role)
        more = f'<p class="note">{len(text):,} of {len(text) + left:,} characters are shown. {whole}</p>'
    edit = _button("edit", "Edit", f"Edit this {role} turn", pane, prompt=prompt, role=role) if editable else ""
    caret = " caret" if turn.get("writing") and not turn.get("opening") else ""
    bubble = (
        f'<div class="turn {markup.escape(role)}{caret}" dir="auto"><small>{markup.escape(role)}{edit}</small>'
        f"{body}{more}</div>"
    )
    if turn.get("error"):
        return bubble + views.message("bad", *turn["error"])
    return bubble + (f'<div class="stats">{markup.escape(turn["stats"])}</div>' if turn.get("stats") else "")


def _answer(turn: dict, view: str, rivals: list[str]) -> str:
    whole = turn["content"]
    if view == "Probabilities":
        if not turn.get("odds"):
            return markup.plain(markup.cut(whole)[0]) + '<p class="note">Kept for the newest answer only.</p>'
        return contrast.probabilities(markup.cut(whole)[0], turn["odds"])
    thought, answer = markup.split_thought(whole)
    text = markup.cut(answer)[0]
    if view == "Plain text":
        return markup.plain(markup.cut(whole)[0])
    if view == "Differences":
        body = contrast.differences(text, markup.split_thought(rivals[0])[1]) if rivals else markup.plain(text)
    else:
        body = markup.rendered(text)
    if not thought:
        return body
    words = f"{len(thought.split()):,} words"
    inner = markup.rendered(markup.cut(thought)[0])
    return f'<details class="thinking"><summary>Thinking · {words}</summary>{inner}</details>{body}'


def _button(act: str, text: str, title: str, pane: int, **more: Any) -> str:
    data = "".join(f' data-{name}="{markup.escape(str(value))}"' for name, value in more.items())
    said = markup.escape(title)
    return (
        f'<button type="button" class="small" data-act="{act}" data-pane="{pane}"{data} title="{said}" '
        f'aria-label="{said}">{text}</button>'
    )
