"""The samples' card: base and step side by side for each prompt, with nothing of the texts' own markup."""

import html as markup
import json
import re

from studio.runs import RunSnapshot
from studio.ui.runs import samples


def view(*told: tuple) -> RunSnapshot:
    events = [
        {"time": 0, "kind": "sample", "step": step, "number": number, "prompt": f"Q{number} <i>", "output": output}
        for step, number, output in told
    ]
    return RunSnapshot().add(events)


def outputs(page: str) -> dict:
    return json.loads(markup.unescape(re.search(r'data-outputs="([^"]*)"', page)[1]))


def test_the_base_stands_beside_the_newest_step():
    page = samples.html(view((0, 0, "base says"), (10, 0, "then"), (20, 0, "now says")))
    assert page.index("base says</div>") < page.index('data-number="0">now says')
    assert 'class="at">20<' in page


def test_every_step_is_carried_along_for_the_slider():
    page = samples.html(view((0, 0, "a"), (0, 1, "b"), (10, 0, "c"), (10, 1, "d")))
    assert outputs(page) == {"0": {"0": "a", "1": "b"}, "10": {"0": "c", "1": "d"}}
    assert 'max="1" value="1"' in page


def test_markup_of_prompts_and_answers_stays_text():
    page = samples.html(view((0, 0, "<script>alert(1)</script>"), (5, 0, '"><img src=x>')))
    assert "<script" not in page
    assert "<img" not in page
    assert "<i>" not in page
    assert outputs(page)["5"]["0"] == '"><img src=x>'


def test_a_single_step_needs_no_slider():
    assert "type=range" not in samples.html(view((0, 0, "a")))
    assert 'type="range"' not in samples.html(view((0, 0, "a")))


def test_no_samples_no_card():
    assert samples.html(RunSnapshot()) == ""


def test_an_answer_of_nothing_and_a_base_that_is_not_known_are_said():
    page = samples.html(view((10, 0, "")))
    assert "(nothing)" in page
    assert "–" in page


def test_the_card_is_drawn_anew_only_for_new_samples():
    one = view((0, 0, "a"))
    before = samples.signature("r", one)
    assert samples.signature("r", one.add([{"time": 1, "kind": "step", "step": 1, "loss": 1.0}])) == before
    more = [{"time": 2, "kind": "sample", "step": 5, "number": 0, "prompt": "Q", "output": "b"}]
    assert samples.signature("r", one.add(more)) != before


def test_an_answer_that_was_cut_off_says_so():
    told = {"time": 0, "kind": "sample", "step": 0, "number": 0, "prompt": "Q", "output": "one two ", "cut": True}
    assert outputs(samples.html(RunSnapshot().add([told])))["0"] == {"0": "one two …"}


def test_a_resumed_run_replaces_what_it_says_again():
    shown = view((0, 0, "a"), (5, 0, "b"), (5, 0, "c"))
    assert outputs(samples.html(shown))["5"] == {"0": "c"}
