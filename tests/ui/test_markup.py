"""What a model wrote is shown and never obeyed, whatever it is."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from studio.ui import markup
from studio.ui.compare import chat_html, contrast
from studio.ui.method import formula

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![a](http://evil.example/pixel.png)",
    '![a](http://evil.example/pixel.png "onload=x")',
    "[click](javascript:alert(1)) <javascript:alert(1)>",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[ref]\n\n[ref]: http://evil.example/",
    "<http://evil.example/> http://evil.example/",
    "${alert(1)} {{constructor}} {{#each}} #{x} <%= x %>",
    '```"><script>alert(1)</script>\n</code></pre><script>alert(1)</script>\n```',
    "`<script>` ``</code><img src=x>``",
    "$$</span><script>alert(1)</script>$$ \\(<img src=x>\\) $<b>$",
    "| <img src=x> | b |\n|:-:|---|\n| <script> | [x](javascript:1) |",
    "<style>@import url(http://evil.example)</style><iframe src=//evil.example></iframe><svg onload=alert(1)>",
    "<think><script>alert(1)</script></think><img src=x>",
    "</div></section><form action=http://evil.example><input autofocus onfocus=alert(1)>",
    '9999999999. x\n\n# <a href="http://evil.example">x</a>',
    "&lt;script&gt; &#60;script&#62; &lt;img src=x&gt;",
]
TAGS = {
    "div", "p", "span", "br", "hr", "em", "strong", "s", "code", "pre", "small", "ul", "ol", "li", "blockquote",
    "table", "thead", "tbody", "tr", "th", "td", "ins", "details", "summary", "section", "header", "button",
}  # fmt: skip
ATTRIBUTES = {"class", "title", "start", "style", "data-pane", "data-act", "data-prompt", "data-role", "data-going"}
ATTRIBUTES |= {"aria-label", "type", "dir", "role"}


class Reader(HTMLParser):
    """The elements and the text that a browser would make."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def shown(text: str, view: str) -> str:
    answer = {"role": "assistant", "content": text, "odds": [[3, -10], [4, -200]]}
    other = [{"role": "user", "content": text}, {"role": "assistant", "content": "something else"}]
    return chat_html.draw([[{"role": "user", "content": text}, answer], other], chat_html.heads(["base", "run"]), view)


@pytest.mark.parametrize("view", chat_html.VIEWS)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_makes_no_element_and_no_attribute_of_its_own(text, view):
    read = Reader(shown(text, view))
    assert read.tags <= TAGS | formula.ELEMENTS
    assert {name for name, _ in read.attributes} <= ATTRIBUTES | formula.ATTRIBUTES
    assert not any("evil" in (value or "") or "alert" in (value or "") for _, value in read.attributes)


@pytest.mark.parametrize("view", chat_html.VIEWS)
def test_nothing_is_left_that_a_template_would_fill_in(view):
    html = shown("${alert(1)} {{value}} `${a}` $${b}$$", view)
    assert "${" not in html and "{{" not in html
    assert "{{value}}" in Reader(html).text


def test_an_image_and_a_link_are_their_text_with_the_address_beside_it():
    text = Reader(markup.rendered("![cat](http://a.example/c.png) and [here](http://b.example/)")).text
    assert text.strip() == "[image: cat · http://a.example/c.png] and here (http://b.example/)"


@pytest.mark.parametrize(
    ("hidden", "code"),
    [("\x1b[31mred", "\\u001b"), ("\u202egnp", "\\u202e"), ("\u2066x\u2069", "\\u2066"), ("a\u200bb", "\\u200b"),
     ("\x9b1m", "\\u009b"), ("\ufeff", "\\ufeff"), ("a\x00b", "\\u0000"), ("x\U000e0041", "\\ue0041")],
)  # fmt: skip
@pytest.mark.parametrize("view", chat_html.VIEWS)
def test_escape_sequences_and_direction_marks_are_shown_by_their_code(hidden, code, view):
    html = shown(hidden, view)
    assert code in html
    assert not any(character in html for character in "\x1b\u202e\u2066\u200b\x9b\ufeff\x00\U000e0041")


def test_joined_emoji_and_accents_stay_as_they_are():
    assert markup.visible("👩‍👩‍👧 e\u0301 日本") == "👩‍👩‍👧 e\u0301 日本"


def test_markdown_is_rendered():
    html = markup.rendered("# Title\n\n**bold** `code`\n\n- one\n- two\n\n```python\nprint(1)\n```\n\n|a|\n|-|\n|b|")
    for part in ('class="heading h1"', "<strong>bold</strong>", "<code>code</code>", "<li>one</li>", "python", "<td>b"):
        assert part in html


def test_formulas_are_drawn_and_prices_are_not_formulas():
    html = markup.rendered(r"So $\frac{a}{b} < 1$, or $$\sqrt{x}$$ It costs $5 and $6.")
    assert html.count('class="formula') == 2
    assert "<mfrac>" in html and "√" in html and "<mo>&lt;</mo>" in html
    assert "&#36;5 and &#36;6" in html


@pytest.mark.parametrize(
    "source",
    [
        r"\href{javascript:alert(1)}{x}",
        r"\href{http://evil.example}{x}",
        r"\style{background:url(http://evil.example/a.png)}{x}",
        r"\class{evil}{x}",
        r"\text{<img src=x onerror=alert(1)>}",
        r"\mathrm{<script>alert(1)</script>}",
        r"\unknown{<script>alert(1)</script>}",
        r"\color{red;}{x}",
        "a_",
        "{" * 500,
        r"\frac{1}{" * 60 + "x" + "}" * 60,
        r"\begin{matrix} a & b",
        "&lt;script&gt;",
    ],
)
def test_a_formula_only_draws(source):
    html = markup.rendered(f"${source}$")
    for element in re.findall(r"<([a-z0-9]+)([^>]*)>", html):
        name, attributes = element
        assert name in ("div", "p", "span") or name.startswith("m")
        assert not re.search(r"(href|src|style|on\w+)\s*=", re.sub(r'title="[^"]*"', "", attributes))
        assert name not in ("marquee", "meta", "map")


def test_a_formula_that_is_not_understood_is_its_source():
    assert "a_</span>" in markup.rendered("$a_$") and 'class="formula source"' in markup.rendered("$a_$")


@pytest.mark.parametrize("view", chat_html.VIEWS)
@pytest.mark.parametrize("unit", ["word ", "<b>", "![", "[a](", "* ", "$", "`"])
def test_an_answer_of_a_megabyte_is_cut_with_a_notice_and_a_way_to_get_it_whole(unit, view):
    text = unit * (1_000_000 // len(unit))
    turns = [{"role": "user", "content": "Go on"}, {"role": "assistant", "content": text}]
    html = chat_html.draw([turns, turns[:1]], chat_html.heads(["base", "run"]), view)
    assert len(html) < 400_000
    assert f"20,000 of {len(text):,} characters" in html
    assert 'data-act="whole"' in html


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>Hm.</think>Yes.", "Hm.", "Yes."),
        ("Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("<think>Hm, so", "Hm, so", ""),
        ("Yes.", "", "Yes."),
        ("<think></think>Yes.", "", "Yes."),
    ],
)
def test_a_thought_is_told_from_the_answer(text, thought, answer):
    assert markup.split_thought(text) == (thought, answer)


def test_a_thought_is_folded():
    html = chat_html.draw([[{"role": "assistant", "content": "<think>a b c</think>Yes."}]], chat_html.heads(["base"]))
    assert "<details" in html and "<details open" not in html and "3 words" in html


def test_differences_are_marked_by_the_word():
    html = contrast.differences("the quick fox", "the slow fox")
    assert html == '<div class="plain">the <ins>quick </ins>fox</div>'
    assert "<ins>" not in contrast.differences("same words", "same words")


def test_the_differences_of_long_texts_are_cut():
    html = contrast.differences("a " * 50_000, "b " * 50_000)
    assert "more follow" in html and len(html) < 40_000


def test_a_token_s_shade_and_title_tell_its_probability():
    odds: list = []
    held = contrast.tally(odds, 0.0, "Hi", -0.0)
    held = contrast.tally(odds, held, "", -0.5)  # half a character
    contrast.tally(odds, held, "é", -0.5)
    assert odds == [[2, 0], [1, -100]]
    html = contrast.probabilities("Hié", odds)
    assert 'title="1.000">Hi' in html and 'title="0.368">é' in html and "--doubt:44%" in html


def test_two_bases_and_four_runs_each_have_a_colour_and_a_mark_of_their_own():
    for names in (["base", "base:x", "one", "one@2"], ["a", "b", "c", "d"], ["base", "base:x", "base:y", "base:z"]):
        assert len({head.text[0] for head in chat_html.heads(names)}) == 4
