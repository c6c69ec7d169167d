"""Text that a model wrote, as HTML that can do nothing: no raw HTML, no images, no links, no hidden characters.

Markdown is read by markdown-it with HTML switched off; what is left of links and images is their text with the address
beside it. Formulas are drawn as MathML, or shown as their source where they are not understood.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable
from typing import Any

from studio.ui.method.formula import mathml

SHOWN = 20_000  # characters of one text that are drawn
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_THOUGHT = re.compile(r"^\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)
_LONGEST_FORMULA = 2_000


def visible(text: str) -> str:
    """Control characters, escape sequences and direction marks by their code, so that nothing hides or is obeyed."""
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def escape(text: str) -> str:
    """Text for the inside of an element or an attribute, where it stays text for HTML and for templates."""
    return html.escape(visible(text)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def cut(text: str, shown: int = SHOWN) -> tuple[str, int]:
    """The part of a text that is drawn, and how many characters are left out."""
    return text[:shown], max(0, len(text) - shown)


def split_thought(text: str) -> tuple[str, str]:
    """What a model thinks before its answer, and the answer. Without a thought the first is empty.

    Some chat templates open the thought themselves, so that only its end is in the text.
    """
    if found := _THOUGHT.match(text):
        return found[1].strip(), text[found.end() :]
    if text.lstrip().startswith("<think>"):  # it has not come to an end
        return text.lstrip().removeprefix("<think>").strip(), ""
    return "", text


def rendered(text: str) -> str:
    """Markdown as HTML. Of a very long text the first part."""
    return f'<div class="md">{_markdown().render(visible(text))}</div>'


def plain(text: str) -> str:
    """The text as it is."""
    return f'<div class="plain">{escape(text)}</div>'


@functools.cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False, "linkify": False, "typographer": False, "breaks": True})
    reader.enable(["table", "strikethrough"])
    reader.validateLink = lambda url: True  # they are text here, and text that says where it leads
    reader.inline.ruler.before("escape", "formula", _formula)
    rules: dict[str, Callable] = {
        "text": lambda tokens, at, *_: escape(tokens[at].content),
        "text_special": lambda tokens, at, *_: escape(tokens[at].content),
        "code_inline": lambda tokens, at, *_: f"<code>{escape(tokens[at].content)}</code>",
        "code_block": _code,
        "fence": _code,
        "formula": _formula_html,
        "image": _image,
        "link_open": _link_open,
        "link_close": _link_close,
        "heading_open": lambda tokens, at, *_: f'<p class="heading {tokens[at].tag}">',
        "heading_close": lambda *_: "</p>",
        "ordered_list_open": _ordered,
        "th_open": lambda *_: "<th>",
        "td_open": lambda *_: "<td>",
    }
    for name, rule in rules.items():
        reader.renderer.rules[name] = rule
    return reader


def _code(tokens: list, at: int, *_: Any) -> str:
    language = tokens[at].info.strip().split(maxsplit=1)[0][:30] if tokens[at].info.strip() else ""
    head = f"<small>{escape(language)}</small>" if language else ""
    return f'<pre class="code">{head}<code>{escape(tokens[at].content)}</code></pre>'


def _image(tokens: list, at: int, *_: Any) -> str:
    source = str(tokens[at].attrs.get("src", ""))
    return f'<span class="url">[image: {escape(tokens[at].content)} · {escape(source[:300])}]</span>'


def _link_open(*_: Any) -> str:
    return '<span class="link">'


def _link_close(tokens: list, at: int, *_: Any) -> str:
    depth = 0
    for before in reversed(tokens[:at]):
        depth += (before.type == "link_close") - (before.type == "link_open")
        if depth < 0:
            return f'</span> <span class="url">({escape(str(before.attrs.get("href", ""))[:300])})</span>'
    return "</span>"


def _ordered(tokens: list, at: int, *_: Any) -> str:
    start = tokens[at].attrs.get("start", 1)
    return f'<ol start="{int(start)}">'


def _formula(state: Any, silent: bool) -> bool:
    r"""``$…$``, ``$$…$$``, ``\(…\)`` and ``\[…\]``; a dollar before a blank or a price is a dollar."""
    for begin, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if not state.src.startswith(begin, state.pos):
            continue
        inside = state.pos + len(begin)
        stop = state.src.find(end, inside, min(state.posMax, inside + _LONGEST_FORMULA))
        if stop <= inside:
            continue
        source, after = state.src[inside:stop], state.src[stop + len(end) : stop + len(end) + 1]
        if begin == "$" and (source[0].isspace() or source[-1].isspace() or "\n" in source or after.isdigit()):
            return False
        if not silent:
            token = state.push("formula", "", 0)
            token.content, token.markup = source, begin
        state.pos = stop + len(end)
        return True
    return False


def _formula_html(tokens: list, at: int, *_: Any) -> str:
    block = tokens[at].markup in ("$$", "\\[")
    kind, source = "formula block" if block else "formula", tokens[at].content.strip()
    drawn = mathml(source, block, escape)
    if drawn is None:
        return f'<span class="{kind} source" title="LaTeX">{escape(source)}</span>'
    return f'<span class="{kind}">{drawn}</span>'
