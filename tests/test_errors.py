"""Errors: short enough to read, and the same after a way through a pipe."""

import pickle

from studio.errors import StudioError, StudioErrors


def test_security_05_texts_of_errors_are_cut_at_both_ends_of_what_is_long():
    error = StudioError("The value " + "a" * 10**6 + " is wrong.", "Use one of: " + "b, " * 10**6)
    assert len(str(error)) < 5000
    assert error.what.startswith("The value a")
    assert error.what.endswith("is wrong.")


def test_security_05_several_problems_are_all_told_and_each_is_cut():
    problems = [StudioError(f"Problem {n}: " + "a" * 10**5, "Mend it.") for n in range(20)]
    error = StudioErrors(problems)
    assert all(f"Problem {n}:" in str(error) for n in range(20))
    assert len(str(error)) < 60_000


def test_an_error_keeps_its_parts_through_a_pipe():
    error = pickle.loads(pickle.dumps(StudioError("What.", "Fix.", "data.source", code="some_code")))
    assert (error.what, error.fix, error.field, error.code) == ("What.", "Fix.", "data.source", "some_code")
    several = pickle.loads(pickle.dumps(StudioErrors([error, error])))
    assert str(several) == str(StudioErrors([error, error]))
