"""Answers of the preview processes are kept; errors are shown for a while and then asked for again."""

import threading

import pytest

from studio.errors import StudioError
from studio.ui import examinations
from studio.ui.examinations import Answers, StillExamining


class Question:
    """Counts how often it is asked, and answers with an error or a value."""

    def __init__(self, answer):
        self.asked, self.answer = 0, answer

    def __call__(self):
        self.asked += 1
        if isinstance(self.answer, StudioError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("code", ["preview_ended", "preview_too_slow", "preview_memory"])
def test_an_error_of_a_process_is_shown_for_a_while_and_then_asked_for_again(monkeypatch, code):
    answers, question = Answers("test"), Question(StudioError("It took too long.", "", code=code))
    for _ in range(5):
        with pytest.raises(StudioError) as caught:
            answers.of("a", question, 10)
        assert caught.value.code == code
    assert question.asked == 1
    monkeypatch.setattr(examinations, "_FAILED_SECONDS", -1.0)
    question.answer = "rows"
    assert answers.of("a", question, 10) == "rows"
    assert answers.of("a", question, 10) == "rows"
    assert question.asked == 2


@pytest.mark.parametrize("code", ["busy", "superseded"])
def test_what_no_process_has_answered_is_asked_again_at_once(code):
    answers, question = Answers("test"), Question(StudioError("Busy.", "", code=code))
    with pytest.raises(StillExamining):
        answers.of("a", question, 10)
    question.answer = "rows"
    assert answers.of("a", question, 10) == "rows"


def test_nobody_waits_longer_than_their_patience_for_a_slow_answer():
    answers, ended = Answers("test"), threading.Event()
    for _ in range(2):
        with pytest.raises(StillExamining):
            answers.of("a", lambda: ended.wait(30), 0.05)
    assert answers.of("b", lambda: 1, 10) == 1
    ended.set()
    assert answers.of("a", lambda: None, 10) is True
