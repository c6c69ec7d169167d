"""What all tests share: a workspace of their own, no network, one core, and a tiny model made once."""

import gc
import os
import sys

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each process of tests, and for what it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def one_core():
    """Torch keeps to one thread where a test has loaded it: a tiny model gains nothing from more."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def small_heap():
    """Take what is loaded by now out of garbage collection.

    A worker collects garbage twice a run. The libraries' several million objects made that half of the time of a run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty workspace that ``STUDIO_HOME`` names, and a Hub that is switched off."""
    folder = tmp_path / "home"
    monkeypatch.setenv("STUDIO_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a tiny chat model. Tests only read it."""
    from tiny import make_tiny_chat_model

    return make_tiny_chat_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def kept_runs(tmp_path_factory):
    """Runs that are trained once for all tests that ask for the same."""
    from lessons import KeptRuns

    return KeptRuns(tmp_path_factory.mktemp("kept_runs"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model):
    """The tiny model's tokenizer. Tests that change it make their own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)
