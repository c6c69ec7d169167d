"""What the tests of the worker share."""

import signal

import pytest
from lessons import done, lesson, write_rows


@pytest.fixture(autouse=True)
def polite_end():
    """The worker takes SIGTERM for itself; a test gives it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def finished(tiny_model, tmp_path_factory):
    """One whole run. Tests only read it."""
    home = tmp_path_factory.mktemp("finished")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        run = done(lesson(tiny_model, write_rows(home / "rows.jsonl")))
    signal.signal(signal.SIGTERM, before)
    return run
