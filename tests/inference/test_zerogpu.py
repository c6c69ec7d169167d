"""Generation on ZeroGPU, with a stand-in for the package that is only there."""

from __future__ import annotations

import pickle
import sys
import threading
from types import SimpleNamespace

import pytest

from studio.inference import Sampling, Target, stream, zerogpu

CHAT = [{"role": "user", "content": "hi"}]
GREEDY = Sampling(temperature=0, max_new_tokens=8)


@pytest.fixture
def spaces(monkeypatch):
    """Counts the calls that had a GPU; what goes in and out is pickled, as between two processes."""
    module = SimpleNamespace(calls=0, inside=False, __spec__=SimpleNamespace(name="spaces"))

    def gpu(duration: int):
        def decorate(function):
            def called(*arguments):
                module.calls += 1
                for told in function(*pickle.loads(pickle.dumps(arguments))):
                    yield pickle.loads(pickle.dumps(told))

            return called

        return decorate

    module.GPU = gpu
    monkeypatch.setitem(sys.modules, "spaces", module)
    return module


def test_zero_gpu_is_a_space_that_says_so_with_the_package(spaces, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert not zerogpu.on_zero_gpu()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert zerogpu.on_zero_gpu()


def test_without_the_package_nothing_is_imported(monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert not zerogpu.on_zero_gpu()
    assert "spaces" not in sys.modules


def test_answers_inside_the_gpu_call_are_those_outside(workspace, base, engine, spaces):
    ask = zerogpu.answering(engine)
    texts = ["", ""]
    for number, piece in ask([base, Target.run("one")], [CHAT] * 2, [GREEDY] * 2, [threading.Event()] * 2):
        texts[number] += piece.text
    assert spaces.calls == 1
    assert texts == ["".join(p.text for p in stream(engine.open(t), CHAT, GREEDY)) for t in (base, "one")]


def test_a_stop_reaches_the_other_process(workspace, base, engine, spaces):
    handle = engine.open(base)
    handle.weights.model.generation_config.suppress_tokens = sorted(handle.stop_ids)
    stop, last = threading.Event(), None
    long = Sampling(temperature=0, max_new_tokens=200)
    for _, piece in zerogpu.answering(engine)([base], [CHAT], [long], [stop]):
        stop.set()
        last = piece
    assert last.finished == "stopped"
