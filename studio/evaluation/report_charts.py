"""The charts of a report, as SVG that needs no script."""

from __future__ import annotations

from html import escape

_WIDTH, _LINE = 640, 34


def chart(rows: list[tuple[str, dict[str, tuple[float, list[float] | None]]]]) -> str:
    """Shares from 0 to 100 % as dots with their intervals, the base's above the tuned one's."""
    if not rows:
        return ""
    left, right, height = 150, 20, _LINE * len(rows) + 24
    x = lambda share: left + share * (_WIDTH - left - right)  # noqa: E731
    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 20}"/>'
        f'<text class="tick" x="{x(tick):.1f}" y="{height - 6}">{tick:.0%}</text>'
        for tick in (0, 0.25, 0.5, 0.75, 1)
    ]
    for number, (name, sides) in enumerate(rows):
        middle = 4 + _LINE * number + _LINE / 2
        parts.append(f'<text class="name" x="{left - 10}" y="{middle + 4:.1f}">{escape(name)}</text>')
        for side, at in (("base", middle - 6), ("tuned", middle + 6)):
            mean, around = sides[side]
            if around:
                low, high = (f"{x(end):.1f}" for end in around)
                parts.append(f'<line class="{side}" x1="{low}" x2="{high}" y1="{at:.1f}" y2="{at:.1f}"/>')
            told = f"<title>{side}: {mean:.1%}</title>"
            if side == "tuned":
                parts.append(f'<circle class="tuned" cx="{x(mean):.1f}" cy="{at:.1f}" r="4.5">{told}</circle>')
            else:
                square = f'x="{x(mean) - 4:.1f}" y="{at - 4:.1f}" width="8" height="8"'
                parts.append(f'<rect class="base" {square}>{told}</rect>')
    return _svg(height, "".join(parts)) + _legend()


def bars(rows: list[tuple[str, dict[str, float]]]) -> str:
    """Losses as bars, the base's above the tuned one's."""
    most = max(
        (value for _, sides in rows for value in (sides["base"], sides["tuned"]) if value is not None), default=1
    )
    left, right, height = 190, 70, 44 * len(rows) + 6
    parts = []
    for number, (name, sides) in enumerate(rows):
        top = 4 + 44 * number
        parts.append(f'<text class="name" x="{left - 10}" y="{top + 22}">{escape(name)}</text>')
        for place, side in enumerate(("base", "tuned")):
            value = sides[side] or 0.0
            width = max(1.0, value / (most or 1) * (_WIDTH - left - right))
            y = top + 3 + 16 * place
            parts.append(f'<rect class="{side}" x="{left}" y="{y}" width="{width:.1f}" height="13" rx="2"/>')
            parts.append(f'<text class="value" x="{left + width + 6:.1f}" y="{y + 11}">{value:.3f}</text>')
    return _svg(height, "".join(parts)) + _legend()


def _svg(height: float, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="Base beside tuned">{content}</svg>'


def _legend() -> str:
    return '<p class="legend"><span class="base">■ base</span> <span class="tuned">● tuned</span></p>'
