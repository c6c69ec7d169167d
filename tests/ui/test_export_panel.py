"""Export, on the page: every state, and nothing of a run's own markup."""

import pytest
from lessons import lesson, write_rows
from starlette.applications import Starlette
from starlette.testclient import TestClient

from studio.export import KINDS, job
from studio.export.kinds import Options
from studio.runs import Run
from studio.ui import downloads
from studio.ui.runs import export_panel


@pytest.fixture
def run(home, tiny_model, tmp_path):
    made = Run.create(lesson(tiny_model, write_rows(tmp_path / "rows.jsonl")))
    made.model_dir.mkdir()
    (made.model_dir / "adapter_config.json").write_text("{}")
    return made


@pytest.fixture(scope="module")
def ship():
    import gradio as gr

    with gr.Blocks():
        return export_panel.build()


def test_every_kind_has_choices_and_every_option_a_control(ship):
    assert set(export_panel.SHOWN) == set(KINDS)
    assert set(ship.options) == {*Options.__dataclass_fields__, "to"}
    assert {name for names in export_panel.SHOWN.values() for name in names} == set(ship.options)


def test_a_kind_shows_its_own_choices(ship):
    shown = dict(zip(export_panel._NAMES, export_panel.chosen("hub"), strict=True))
    assert {name for name, update in shown.items() if update["visible"]} == {"repo", "what", "private", "update"}


def test_without_an_export_it_says_what_to_do(run):
    assert "press Export" in export_panel.shown(run, job.read(run))


def test_progress_failure_and_result_are_told(run):
    about = {"kind": "merged"}
    working = {**about, "state": "working", "what": "Merging", "done": 0, "total": 0}
    assert "Merging" in export_panel.shown(run, working)
    failed = {**about, "state": "failed", "what": "It <b>broke</b>.", "fix": "Mend it."}
    assert "&lt;b&gt;broke" in export_panel.shown(run, failed)
    done = {**about, "state": "done", "path": "/no/<i>where", "told": ["Checked <x>."], "code": {}}
    html = export_panel.shown(run, done)
    assert "Checked &lt;x&gt;." in html
    assert "/no/&lt;i&gt;where" in html
    assert "not there any more" in html


def test_what_cannot_be_made_of_a_run_is_told_beforehand(run):
    assert "Not for this run" not in export_panel.about(run)
    full = lesson("x", "y", method={"kind": "full"})
    full.save(run.folder / "recipe.yaml")
    assert "Full fine-tuning trains no adapter" in export_panel.about(run)


def test_the_card_is_there_for_runs_with_a_model_only(run, ship, home, tiny_model, tmp_path):
    assert export_panel.updates(ship, run, "finished")[ship.card]["visible"]
    bare = Run.create(lesson(tiny_model, tmp_path / "rows.jsonl"))
    assert not export_panel.updates(ship, bare, "failed")[ship.card]["visible"]


def test_one_file_is_downloaded_and_a_folder_is_not(run, tmp_path):
    file = tmp_path / "adapter.zip"
    file.write_bytes(b"PK")
    client = TestClient(Starlette(routes=downloads.routes()))
    address = f"/runs/{run.id}/export"
    assert client.get(address).status_code == 404
    job.keep_place(run, str(file))
    job.write(run, {"state": "done", "kind": "adapter", "path": str(file), "told": [], "code": {}})
    answer = client.get(address)
    assert answer.content == b"PK"
    assert 'filename="adapter.zip"' in answer.headers["content-disposition"]
    assert f"runs/{run.id}/export" in export_panel.shown(run, job.read(run))
    job.write(run, {"state": "done", "kind": "merged", "path": str(tmp_path), "told": [], "code": {}})
    assert client.get(address).status_code == 404


def test_security_10_only_what_the_studio_has_exported_is_downloaded(run, home, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("of somebody else")
    exports = home / "exports" / run.id
    exports.mkdir(parents=True)
    (exports / "link.zip").symlink_to(secret)
    (exports / "folder").symlink_to(tmp_path)
    (exports / "adapter.zip").write_bytes(b"PK")
    client = TestClient(Starlette(routes=downloads.routes()))

    def served(path):
        job.write(run, {"state": "done", "kind": "adapter", "path": str(path), "told": [], "code": {}})
        answer = client.get(f"/runs/{run.id}/export")
        assert ("ship-download" in export_panel.shown(run, job.read(run))) == (answer.status_code == 200)
        return answer.status_code

    refused = (secret, exports / "link.zip", exports / "folder" / "secret.txt", exports / "../../../secret.txt")
    assert [served(path) for path in refused] == [404] * len(refused)
    assert served(exports / "adapter.zip") == 200
