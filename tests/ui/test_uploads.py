"""Uploaded files are kept whole in the workspace, and nothing of them stays where that fails."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from studio.errors import StudioError, StudioErrors
from studio.recipe import Recipe
from studio.runs import Run
from studio.ui.data.uploads import (
    SUITES,
    delete_upload,
    is_upload,
    keep_uploads,
    kept_datasets,
    mark_unreadable,
    named,
)


@pytest.fixture
def files(tmp_path):
    """Two files as a browser has uploaded them."""
    paths = []
    for name in ("one.jsonl", "two.jsonl"):
        path = tmp_path / name
        path.write_text(json.dumps({"prompt": name, "completion": "yes"}) + "\n", encoding="utf-8")
        paths.append(str(path))
    return paths


def kept(home) -> list[str]:
    return sorted(path.name for path in (home / "datasets" / "uploads").iterdir())


def test_several_files_become_one_folder_and_the_same_ones_again_are_the_same_folder(home, files):
    folder = keep_uploads(files)
    assert keep_uploads(files) == folder
    assert len(kept(home)) == 1
    assert len(list((home / "datasets" / "uploads" / kept(home)[0]).iterdir())) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_a_full_disk_leaves_nothing_of_an_upload_and_it_can_be_tried_again(home, files, monkeypatch, count):
    copy = shutil.copyfile

    def full(source, target):
        copy(source, target)
        if str(source) == files[count - 1]:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(shutil, "copyfile", full)
        with pytest.raises(StudioError, match=r"No space left on device.*Free some disk space"):
            keep_uploads(files[:count])
    assert kept(home) == []
    keep_uploads(files[:count])
    assert len(kept(home)) == 1


@pytest.fixture
def upload(home, tmp_path):
    """An uploaded file of this name."""

    def make(name: str = "rows.jsonl", **options) -> str:
        path = tmp_path / name
        path.write_text('{"prompt": "a", "completion": "b"}', encoding="utf-8")
        return keep_uploads([str(path)], **options)

    return make


def test_page_13_an_upload_that_cannot_be_read_is_listed_only_while_it_is_chosen(upload):
    good, bad = upload("good.jsonl"), upload("bad.jsonl")
    mark_unreadable(bad)
    assert kept_datasets(bad) == sorted([good, bad])
    assert kept_datasets(good) == [good]
    assert not Path(bad).exists()


def test_page_13_files_of_prompts_are_no_datasets(upload):
    assert Path(upload("prompts.jsonl", folder=SUITES)).exists()
    assert kept_datasets() == []


@pytest.mark.parametrize(("where", "refused"), [("queued", True), ("finished", False)])
def test_page_13_an_upload_is_deleted_unless_a_run_needs_it(upload, where, refused):
    source = upload()
    run = Run.create(Recipe.parse({"data": {"source": source}}))
    assert is_upload(source)
    if refused:
        with pytest.raises(StudioError) as caught:
            delete_upload(source, [(run, where)])
        assert caught.value.code == "upload_in_use"
    else:
        delete_upload(source, [(run, where)])
    assert Path(source).exists() is refused


@pytest.mark.parametrize("source", ["builtin/support-triage", "/etc/passwd", "", None, "../x"])
def test_page_13_what_was_not_uploaded_is_not_deleted(home, source):
    with pytest.raises(StudioError) as caught:
        delete_upload(source, [])
    assert caught.value.code == "not_an_upload"


def test_page_10_an_error_about_an_uploaded_file_has_its_name_and_no_temporary_path():
    path = "/tmp/gradio/4711/bad.yaml"
    said = named(StudioErrors([StudioError(f"{path} is not valid YAML.", f"Mend {path}.")]), path)
    assert [(p.what, p.fix) for p in said.problems] == [("bad.yaml is not valid YAML.", "Mend bad.yaml.")]


@pytest.mark.parametrize(
    "end", ["..", ".", "", "../uploads", "../cleaned", "rows/..", "../../datasets", "a" * 5000, "\0"]
)
def test_a_folder_of_uploads_is_no_upload(home, upload, end):
    kept = Path(upload())
    with pytest.raises(StudioError) as caught:
        delete_upload(f"{kept.parent}/{end}", [])
    assert caught.value.code == "not_an_upload"
    assert kept.exists()


def test_a_link_among_the_uploads_is_no_upload_and_what_it_leads_to_stays(upload, tmp_path):
    kept, other = Path(upload()), tmp_path / "other"
    other.mkdir()
    link = kept.with_name("link")
    link.symlink_to(other)
    assert not is_upload(str(link))
    assert other.exists() and link.is_symlink()


@pytest.mark.parametrize("status", ["running", "paused", "stopped", "failed", "interrupted"])
def test_an_uploaded_folder_stays_while_a_run_that_uses_a_file_in_it_can_go_on(home, tmp_path, status):
    files = []
    for name in ("a.jsonl", "b.jsonl"):
        path = tmp_path / name
        path.write_text(json.dumps({"prompt": name, "completion": "b"}), encoding="utf-8")
        files.append(str(path))
    folder = Path(keep_uploads(files))
    run = Run.create(Recipe.parse({"data": {"source": str(next(folder.glob("a*")))}}))
    with pytest.raises(StudioError) as caught:
        delete_upload(str(folder), [(run, status)])
    assert caught.value.code == "upload_in_use"
    delete_upload(str(folder), [(run, "finished")])
    assert not folder.exists()
