"""Models of the Hub: whole or not at all, resumed, and every refusal in plain words."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub, wait_until

from studio.errors import StudioError
from studio.models import hub_models as hub_of_models
from studio.models import store, transfer
from studio.recipe import ModelSpec
from studio.workspace import Workspace

ID = "owner/tiny"
ROOT = Path(__file__).resolve().parents[2]


def refusal(model_id: str = ID, **options) -> StudioError:
    with pytest.raises(StudioError) as caught:
        store.fetch(ModelSpec(id=model_id, **options))
    return caught.value


@pytest.fixture(scope="module")
def large_model(tiny_model, tmp_path_factory):
    """The tiny model with a file of 3 MB beside it, so that a download takes a while."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "large")
    (folder / "model-00002-of-00002.safetensors").write_bytes(os.urandom(3_000_000))
    return folder


def test_a_model_is_fetched_whole_and_its_commit_recorded(online, tiny_model):
    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        folder = store.fetch(ModelSpec(id=ID))
        assert store.revision_of(folder) == hub.commit("models", ID)
    assert (folder / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()


def test_progress_ends_at_the_total_that_the_hub_tells(online, tiny_model):
    seen = []
    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        store.fetch(ModelSpec(id=ID), progress=lambda *a: seen.append(a))
    total = sum(p.stat().st_size for p in tiny_model.iterdir())
    assert seen[-1][1:] == (total, total)


def test_a_fixed_commit_is_fetched_once_and_never_asked_for_again(online, tiny_model):
    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        spec = ModelSpec(id=ID, revision=hub.commit("models", ID))
        store.fetch(spec)
        asked = len(hub.requests)
        store.fetch(spec)
        assert len(hub.requests) == asked


def test_bin_files_are_left_where_there_are_safetensors(online, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    with FakeHub({ID: folder}) as hub:
        online(hub)
        names = {p.name for p in store.fetch(ModelSpec(id=ID)).iterdir()}
    assert "pytorch_model.bin" not in names
    assert "modeling_tiny.py" not in names


def test_python_files_come_only_with_trust_remote_code(online, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    (folder / "modeling_tiny.py").write_text("")
    with FakeHub({ID: folder}) as hub:
        online(hub)
        store.fetch(ModelSpec(id=ID))
        before = hub.served
        trusted = store.fetch(ModelSpec(id=ID, trust_remote_code=True))
        assert hub.served == before, "only the empty Python file was missing"
    assert (trusted / "modeling_tiny.py").exists()


def test_a_cut_connection_goes_on_from_the_byte_where_it_was_cut(online, large_model):
    with FakeHub({ID: large_model}, break_after=1_000_000) as hub:
        online(hub)
        store.fetch(ModelSpec(id=ID))
        ranges = [r for _, _, r in hub.requests if r]
        assert ranges == ["bytes=1000000-"]


def test_a_killed_download_fetches_only_the_rest_the_next_time(home, online, large_model):
    size = sum(p.stat().st_size for p in large_model.iterdir())
    with FakeHub({ID: large_model}, rate=1_000_000) as hub:
        environment = os.environ | hub.environment(home / "hf") | {"STUDIO_HOME": str(home)}
        child = subprocess.Popen([sys.executable, "-m", "studio.models.fetch", ID], cwd=ROOT, env=environment)
        assert wait_until(lambda: hub.served > 1_500_000, 60)
        child.kill()
        child.wait()
        assert not store.is_local(ModelSpec(id=ID)), "half a model is not a model"
        hub.rate, before = 0, hub.served
        online(hub)
        store.fetch(ModelSpec(id=ID))
        assert hub.served - before < size - 1_000_000


def test_a_damaged_file_is_not_kept(online, tiny_model, monkeypatch):
    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        monkeypatch.setattr(transfer, "hash_is_right", lambda path, file: "safetensors" not in path.name)
        assert "arrived damaged" in refusal().what
        assert not store.is_local(ModelSpec(id=ID))


def test_a_silent_hub_costs_three_seconds_and_is_told(online):
    with FakeHub({}, hang=True) as hub:
        online(hub)
        start = time.monotonic()
        error = refusal()
        assert time.monotonic() - start < 4.0
    assert "does not answer" in error.what


def test_a_silent_hub_leaves_the_copy_on_this_disk(online, tiny_model, monkeypatch):
    monkeypatch.setattr(hub_of_models, "TIMEOUT_SECONDS", 0.5)
    said = []
    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        folder = store.fetch(ModelSpec(id=ID))
        hub.hang = True
        assert store.fetch(ModelSpec(id=ID), progress=lambda *a: said.append(a[0])) == folder
    assert said == ["The Hugging Face Hub does not answer; the copy on this disk is used."]


def test_a_closed_port_is_no_network(online, tiny_model):
    hub = FakeHub({ID: tiny_model})
    hub._server.server_close()
    online(hub)
    assert "answer" in refusal().what or "broke" in refusal().what


def test_offline_says_which_variable_forbids_the_download(home):
    assert "HF_HUB_OFFLINE" in refusal().what


def test_a_wrong_id_is_told_as_such(online):
    with FakeHub({}) as hub:
        online(hub)
        error = refusal("owner/no-such-model")
    assert "owner/no-such-model" in error.what
    assert "spelling" in error.fix


def test_a_wrong_revision_names_the_field(online, tiny_model):
    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        assert refusal(revision="v9").field == "model.revision"


def test_a_gated_model_asks_for_the_licence_and_a_token(online, tiny_model):
    with FakeHub({ID: tiny_model}, gated=[ID]) as hub:
        online(hub)
        error = refusal()
    assert "gated" in error.what
    assert "Accept the licence" in error.fix
    assert "HF_TOKEN" in error.fix


def test_a_token_opens_a_gated_model_and_is_written_nowhere(online, home, tiny_model):
    with FakeHub({ID: tiny_model}, gated=[ID]) as hub:
        online(hub)
        store.fetch(ModelSpec(id=ID), token=TOKEN)
    kept = [p for p in home.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert kept == []


def test_a_failing_hub_is_not_the_users_fault(online, tiny_model):
    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        hub.failing = 500
        assert "500" in refusal().what


def test_a_full_disk_is_told_with_what_to_do(online, tiny_model, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with FakeHub({ID: tiny_model}) as hub:
        online(hub)
        monkeypatch.setattr(transfer.Watched, "write", full)
        error = refusal()
    assert "disk is full" in error.what
    assert "STUDIO_HOME" in error.fix


def test_a_repository_without_weights_is_refused(online, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with FakeHub({ID: tmp_path}) as hub:
        online(hub)
        assert "no weights" in refusal().what
    assert not (Workspace.current().models / "hub" / "owner--tiny").exists()
