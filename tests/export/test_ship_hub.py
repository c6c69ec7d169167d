"""A model on the Hub: all of it arrives, privately, and the token is written nowhere."""

import json
import traceback
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub

from studio.errors import StudioError
from studio.export import Options, export


@pytest.fixture
def hub(home, tmp_path, monkeypatch):
    """A Hub that this process may write to, with the right token."""
    with FakeHub(store=tmp_path / "hub") as running:
        for name, value in running.environment(home / "hf", TOKEN).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "no-token"))
        yield running


def push(run, repo="me/tuned", **options):
    return export(run, "hub", None, Options(repo=repo, what="merged", **options))


def refused(run, repo="me/tuned", **options) -> StudioError:
    with pytest.raises(StudioError) as caught:
        push(run, repo, **options)
    return caught.value


def test_everything_arrives_and_the_repository_is_private(run_of, hub, tmp_path):
    run = run_of()
    made = push(run)
    folder = tmp_path / "hub/me/tuned"
    assert made.path == f"{hub.url}/me/tuned"
    assert "me/tuned" in hub.private
    assert "private" in made.told[-1]
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0


def test_a_name_alone_is_ones_own_and_public_is_asked_for(run_of, hub):
    assert push(run_of(), "tuned", private=False).path == f"{hub.url}/me/tuned"
    assert not hub.private


def test_no_file_names_a_place_of_this_machine(run_of, hub, tmp_path, tiny_model):
    push(run_of())
    folder = tmp_path / "hub/me/tuned"
    assert "base_model" not in (folder / "README.md").read_text().split("---")[1]
    for file in folder.iterdir():
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content, file.name
        assert str(tiny_model.parent).encode() not in content, file.name


def test_an_adapter_whose_base_nobody_else_has_is_not_pushed(run_of, hub):
    with pytest.raises(StudioError, match="nobody else has"):
        export(run_of(), "hub", None, Options(repo="me/tuned", what="adapter"))
    assert not hub.requests


def test_a_name_that_is_taken_is_taken_only_when_asked(run_of, hub):
    run = run_of()
    push(run)
    assert "already" in refused(run).what
    assert push(run, update=True).path.endswith("me/tuned")


def test_somebody_elses_name_says_that_there_is_no_right(run_of, hub):
    assert "no right to write" in refused(run_of(), "you/tuned").what


def test_without_a_token_it_says_how_to_log_in(run_of, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    error = refused(run_of())
    assert "no token" in error.what
    assert "hf auth login" in error.fix
    assert not hub.requests


def test_a_wrong_token_says_so(run_of, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_one")
    assert "does not know your token" in refused(run_of()).what


def test_without_a_network_it_says_so(run_of, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "does not answer" in refused(run_of()).what


def test_a_switched_off_hub_is_not_asked(run_of, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(run_of()).what
    assert not hub.requests


def test_a_file_that_arrives_broken_is_found(run_of, hub):
    real = hub.uploads.__class__.__setitem__

    class Losing(dict):
        def __setitem__(self, name, content):
            real(self, name, content[:-1])

    hub.uploads = Losing()
    assert "model.safetensors did not arrive whole" in refused(run_of()).what


@pytest.mark.parametrize("repo", ["", "a b", "me/../you", "a/b/c", "-x"])
def test_what_is_no_name_is_refused(run_of, hub, repo):
    assert "not a repository's name" in refused(run_of(), repo).what


@pytest.mark.parametrize("token", [TOKEN, "hf_wrong_secret", "hf_broken\x07secret"])
def test_the_token_is_in_no_file_no_output_and_no_error(run_of, hub, home, monkeypatch, capfd, caplog, token):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("HF_TOKEN", token)
    said = ""
    run = run_of()
    try:
        said = json.dumps(push(run).to_dict())
    except StudioError:
        said = traceback.format_exc()
    captured = capfd.readouterr()
    secret = token.replace("\x07", "")[3:]
    for text in (said, captured.out, captured.err, caplog.text):
        assert token not in text
        assert secret not in text
    files = [path for path in Path(home).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]
