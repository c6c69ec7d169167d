"""Colours and type: system fonts, one accent, the same in light and dark."""

from __future__ import annotations

import gradio as gr

from studio.workspace import ASSETS

CSS_PATH = ASSETS / "studio.css"
_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """The studio's theme. Nothing in it is fetched from another host."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=list(_SANS),
        font_mono=list(_MONO),
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0f1217",
        block_background_fill="#ffffff",
        block_background_fill_dark="#171c24",
        border_color_primary="#dce1e8",
        border_color_primary_dark="#2b3340",
        body_text_color="#1a2230",
        body_text_color_dark="#e6eaf0",
        body_text_color_subdued="#56627a",
        body_text_color_subdued_dark="#a2aebf",
        block_info_text_color="#56627a",
        block_info_text_color_dark="#a2aebf",
        block_label_text_color="#1a2230",
        block_label_text_color_dark="#e6eaf0",
        block_title_text_color="#1a2230",
        block_title_text_color_dark="#e6eaf0",
        block_title_text_weight="600",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#10151c",
        input_border_color="#cbd2dc",
        input_border_color_dark="#364152",
        input_border_width="1px",
        color_accent="#4f46e5",
        button_primary_background_fill="#4f46e5",
        button_primary_background_fill_hover="#4338ca",
        button_primary_background_fill_dark="#5b54e6",
        button_primary_background_fill_hover_dark="#655ee9",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1e2530",
        button_secondary_background_fill_hover="#f1f4f8",
        button_secondary_background_fill_hover_dark="#263040",
        button_secondary_border_color="#cbd2dc",
        button_secondary_border_color_dark="#364152",
        checkbox_background_color_selected="#4f46e5",
        checkbox_background_color_selected_dark="#6d67f0",
        button_medium_text_size="14px",
        button_large_text_size="14.5px",
        button_medium_text_weight="550",
        button_large_text_weight="600",
        button_medium_padding="8px 14px",
        slider_color="#4f46e5",
        slider_color_dark="#8b86f7",
        accordion_text_color="#56627a",
        accordion_text_color_dark="#a2aebf",
    )
