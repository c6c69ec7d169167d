"""Export, on the Runs tab: what can be made of a tuned model, how far the last export is, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.export import KINDS, Options, job, refusal
from studio.export.kinds import DTYPES, GGUF_TYPES
from studio.runs import Run
from studio.ui import views
from studio.ui.views import escape
from studio.ui.wiring import QUIET, told

SHOWN = {  # which choices belong to which kind
    "merged": ("dtype", "to"),
    "adapter": ("zip", "to"),
    "gguf": ("gguf_type", "to"),
    "ollama": ("weights", "dtype", "to"),
    "snippet": (),
    "script": ("zip", "to"),
    "hub": ("repo", "what", "private", "update"),
}
SNIPPETS = ("transformers", "vLLM")


@dataclass
class Ship:
    card: gr.Accordion
    kind: gr.Radio
    about: gr.HTML
    options: dict[str, gr.components.Component]
    go: gr.Button
    state: gr.HTML
    code: dict[str, gr.Code]

    def parts(self) -> list[Any]:
        """What :func:`updates` may change."""
        return [self.card, self.about, self.go, self.state, *self.code.values()]


def build() -> Ship:
    with gr.Accordion("Export", open=False, visible=False, elem_id="ship") as card:
        kind = gr.Radio(
            [(each.title, name) for name, each in KINDS.items()],
            value="merged",
            label="Format",
            info="Every export is reloaded and verified.",
            interactive=True,
            elem_id="ship-kind",
        )
        about = gr.HTML(elem_id="ship-about")
        with gr.Row(equal_height=False):
            options = _options()
        go = gr.Button("Export", scale=0, min_width=160, elem_id="ship-go")
        state = gr.HTML(elem_id="ship-state")
        code = {
            name: gr.Code(
                label=name,
                language="python",
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id=f"ship-{name}",
            )
            for name in SNIPPETS
        }
    return Ship(card, kind, about, options, go, state, code)


def _options() -> dict[str, gr.components.Component]:
    """One control for each field of ``Options``, and ``to``; those of the first kind are visible."""
    on = {"interactive": True}
    made: dict[str, gr.components.Component] = {
        "dtype": gr.Dropdown(
            [("as trained", "auto"), *((name, name) for name in DTYPES[1:])],
            value="auto",
            label="Number format",
            info="float32 is exact; the others take half the space.",
            elem_id="ship-dtype",
            **on,
        ),
        "gguf_type": gr.Dropdown(
            list(GGUF_TYPES),
            value="f16",
            label="Number format",
            info="q8_0 takes a byte for each weight, f16 two.",
            elem_id="ship-gguf",
            **on,
        ),
        "weights": gr.Dropdown(
            [("Safetensors", "safetensors"), ("GGUF, by llama.cpp's converter", "gguf")],
            value="safetensors",
            label="Weights",
            info="Ollama reads both; safetensors of Llama, Mistral, Gemma and Phi.",
            elem_id="ship-weights",
            **on,
        ),
        "zip": gr.Checkbox(True, label="One .zip file", info="To download it; off writes a folder.", **on),
        "repo": gr.Textbox(
            label="Repository", info="owner/name, or a name alone for your own.", elem_id="ship-repo", **on
        ),
        "what": gr.Dropdown(
            [("The adapter, if there is one", "auto"), ("Adapter", "adapter"), ("Whole model", "merged")],
            value="auto",
            label="What goes there",
            info="An adapter is small and needs its base.",
            **on,
        ),
        "private": gr.Checkbox(
            True, label="Private", info="Only you see a new repository.", elem_id="ship-private", **on
        ),
        "update": gr.Checkbox(False, label="Update", info="Push to an existing repository.", **on),
        "to": gr.Textbox(
            label="Where",
            info="Leave empty to use the workspace.",
            elem_id="ship-to",
            **on,
        ),
    }
    for name, control in made.items():
        control.visible = name in SHOWN["merged"]
    return made


def chosen(kind: str) -> list[Any]:
    """Show the choices of a kind."""
    return [gr.update(visible=name in SHOWN[kind]) for name in _NAMES]


_NAMES = ("dtype", "gguf_type", "weights", "zip", "repo", "what", "private", "update", "to")


def signature(run: Run) -> str:
    """What changes when there is something new to show."""
    state = job.read(run)
    return f"{run.id} {run.has_model} {job.stamp(run)} {state and state['state']}"


def updates(ship: Ship, run: Run, status: str) -> dict[Any, Any]:
    """The card for a run that has a model, with how its last export stands."""
    if not run.has_model or status == "running" or run.damage:
        return hidden(ship)
    state = job.read(run)
    code = (state or {}).get("code") or {}
    return {
        ship.card: gr.update(visible=True),
        ship.about: about(run),
        ship.go: gr.update(interactive=not state or state["state"] != "working"),
        ship.state: shown(run, state),
        **{part: gr.update(value=code.get(name, ""), visible=name in code) for name, part in ship.code.items()},
    }


def hidden(ship: Ship) -> dict[Any, Any]:
    """The card where there is nothing to ship."""
    return {ship.card: gr.update(visible=False)}


def about(run: Run) -> str:
    """What each kind is, and what cannot be made of this run."""
    recipe = run.recipe
    lines = ""
    for name, kind in KINDS.items():
        no = refusal(recipe, name)
        text = f"Not for this run. {no.what}" if no else kind.about
        lines += f"<dt>{escape(kind.title)}</dt><dd{' class=no' if no else ''}>{escape(text)}</dd>"
    return f'<details class="ship-kinds"><summary>What these are</summary><dl>{lines}</dl></details>'


def shown(run: Run, state: dict[str, Any] | None) -> str:
    """How the last export stands."""
    if state is None:
        return views.empty("Nothing exported yet", "Choose what to make and press Export.")
    title = KINDS[state["kind"]].title
    if state["state"] == "working":
        return views.working(f"{title}: {state['what']}", state["done"], state["total"], "bytes")
    if state["state"] == "failed":
        return views.message("bad", f"{title}: {state['what']}", state["fix"])
    return done(run, title, state)


def done(run: Run, title: str, state: dict[str, Any]) -> str:
    """Where it is, a download where it is one file, and what the reading back has shown."""
    path = state["path"]
    remote = path.startswith(("http://", "https://"))
    place = f'<a href="{escape(path)}" target="_blank" rel="noopener">{escape(path)}</a>' if remote else escape(path)
    file = Path(path)
    link = ""
    if made := job.made_file(run, state):
        size = views.size(made.stat().st_size)
        link = f'<a class="ship-download" href="runs/{escape(run.id)}/export" download>Download ({size})</a>'
    gone = "" if remote or file.exists() else '<p class="note">It is not there any more.</p>'
    lines = "".join(f"<li>{escape(line)}</li>" for line in state["told"] if line)
    return (
        f'<div class="message good ship-done" role="status"><b>✓ {escape(title)}</b> <code>{place}</code> {link}{gone}'
        f"<ul>{lines}</ul></div>"
    )


def start(values: dict[str, Any], run_id: str | None, kind: str) -> str:
    """Begin an export with the choices on the page.

    Raises:
        StudioError: it cannot be made.
    """
    if not run_id:
        raise StudioError("There is no run yet.", "Launch one first.")
    run, mine = Run.open(run_id), SHOWN[kind]
    options = Options(**{name: values[name] for name in mine if name != "to"})
    job.start(run, kind, values["to"] if "to" in mine else None, options)
    return shown(run, job.read(run))


def wire(ship: Ship, run: gr.Dropdown) -> None:
    """Connect the card; ``run`` holds the run's id. How far an export is comes with the tab's own looks."""
    controls = [ship.options[name] for name in _NAMES]
    ship.kind.change(chosen, ship.kind, controls, **QUIET)

    def go(values: dict[Any, Any]) -> dict[Any, Any]:
        given = {name: values[ship.options[name]] for name in _NAMES}
        html = told(start)(given, values[run], values[ship.kind])
        none = {part: gr.update(visible=False) for part in ship.code.values()}
        return {ship.state: html, ship.go: gr.update(interactive=False), **none}

    ship.go.click(
        go,
        {run, ship.kind, *controls},
        [ship.state, ship.go, *ship.code.values()],
        api_visibility="private",
        trigger_mode="once",
        show_progress="hidden",
    )
