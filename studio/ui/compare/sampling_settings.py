"""How the models of the Compare tab answer: settings for all panes, and for each pane what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.ui.compare.chat_sessions import LEAST, MOST

# lowest, highest, default, step, label, help
FIELDS = {
    "temperature": (0, 2, 0.0, 0.05, "Temperature", "0 takes the likeliest token each time."),
    "top_p": (0.05, 1, 0.9, 0.05, "Top-p", "Share of the probability that is kept."),
    "top_k": (0, 200, 0, 1, "Top-k", "Tokens that are kept; 0 keeps all."),
    "min_p": (0, 0.95, 0.0, 0.01, "Min-p", "Kept if at least this share as likely as the likeliest; 0 keeps all."),
    "repetition_penalty": (1, 2, 1.0, 0.05, "Repetition penalty", "1 is none."),
    "max_new_tokens": (16, 2048, 256, 16, "Max new tokens", "A longer answer is cut."),
}
SEED = ("Seed", "The same seed gives the same answer.")


@dataclass
class Settings:
    """The fields.

    Attributes:
        shared: for all panes, by their names in ``Sampling``.
        own: for each pane; an empty field is as shared. They have ``system`` too.
        groups: what holds the fields of each pane.
    """

    shared: dict[str, gr.components.Component]
    own: list[dict[str, gr.components.Component]]
    groups: list[gr.Column]

    @classmethod
    def build(cls) -> Settings:
        """The fields, folded."""
        with gr.Accordion("Generation settings", open=False), gr.Row(elem_classes="fields"):
            shared: dict[str, gr.components.Component] = {
                name: gr.Slider(low, high, value, step=step, label=label, info=info, interactive=True)
                for name, (low, high, value, step, label, info) in FIELDS.items()
            }
            shared["seed"] = gr.Number(0, precision=0, label=SEED[0], info=SEED[1], interactive=True)
        own, groups = [], []
        with gr.Accordion("Per-model overrides", open=False, elem_id="own-settings"):
            gr.HTML('<p class="note">An empty field is as for all.</p>')
            with gr.Row(equal_height=False):
                for number in range(MOST):
                    with gr.Column(min_width=240, visible=number < LEAST) as group:
                        gr.HTML(f'<h4 class="note">Pane {number + 1}</h4>')
                        own.append(_own_fields(number))
                    groups.append(group)
        return cls(shared, own, groups)

    def components(self) -> list[gr.components.Component]:
        """All fields."""
        return [*self.shared.values(), *(field for fields in self.own for field in fields.values())]

    def shared_values(self, values: dict) -> dict[str, Any]:
        """The settings for all panes; a field that was cleared has the value that it began with."""
        given = {name: values[field] for name, field in self.shared.items()}
        return {name: self.shared[name].value if value is None else value for name, value in given.items()}

    def own_values(self, values: dict) -> tuple[dict[str, Any], ...]:
        """What each pane has of its own."""
        return tuple({name: values[field] for name, field in fields.items()} for fields in self.own)

    @property
    def show(self) -> Callable[[str], list[Any]]:
        """From the number of panes to updates of the groups."""
        return lambda count: [gr.update(visible=number < int(count or LEAST)) for number in range(MOST)]


def _own_fields(number: int) -> dict[str, gr.components.Component]:
    """Fields of text, because Gradio's fields for numbers cannot be empty."""
    names = {**{name: field[4] for name, field in FIELDS.items()}, "seed": SEED[0], "system": "System message"}
    with gr.Row(elem_classes="own-fields"):
        return {
            name: gr.Textbox(
                "",
                label=label,
                placeholder="as for all",
                max_lines=4 if name == "system" else 1,
                interactive=True,
                min_width=90,
                elem_id=f"own-{number + 1}-{name}",
            )
            for name, label in names.items()
        }
