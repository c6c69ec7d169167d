"""Uploaded files are kept whole in the workspace, and nothing of them stays where that fails."""

import errno
import json
import shutil

import pytest

from studio.errors import StudioError
from studio.ui.data_tab import keep_uploads


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
