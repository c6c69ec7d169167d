"""What the tests of studio.models share: a fake Hub that this process talks to, and a GPT-2."""

import pytest


@pytest.fixture
def online(home, monkeypatch):
    """A function that makes this process talk to a FakeHub, as a stranger without a token."""

    def use(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # huggingface_hub read these when it was first imported, under another test's variables
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "no-token"))
        return hub

    return use


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory):
    """The folder of a tiny GPT-2 without a chat template. Tests only read it."""
    from tiny import make_tiny_gpt2

    return make_tiny_gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def base_model(tmp_path_factory):
    """The folder of a tiny Llama without a chat template. Tests only read it."""
    from tiny import make_tiny_chat_model

    return make_tiny_chat_model(tmp_path_factory.mktemp("models") / "base", chat_template=None)
