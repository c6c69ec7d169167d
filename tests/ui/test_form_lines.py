"""Questions in the form: one a line, whatever is in them."""

import pytest

from studio.ui.form import _shown, _typed, declared

FIELD = declared("train.sample_prompts")


@pytest.mark.parametrize(
    "prompts",
    [[], ["Who, and why?"], ["Two\nlines", "One"], ["C:\\new", "a \\n b"], ["1", "- 2", "{x: 3}"]],
    ids=["none", "a comma", "a line break", "backslashes", "what YAML would read"],
)
def test_questions_come_back_from_the_form_as_they_were(prompts):
    assert _typed(FIELD, _shown(prompts, FIELD)) == prompts


def test_each_line_is_a_question_and_empty_lines_are_none():
    assert _typed(FIELD, "Why?\n\n  Who, then?  \n") == ["Why?", "Who, then?"]
