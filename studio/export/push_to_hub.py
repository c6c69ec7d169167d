"""A tuned model on the Hugging Face Hub: a repository with the weights and a card, looked at once it is there.

The token is that of ``HF_TOKEN`` or of ``hf auth login``. The Hub's own client takes it; here it is neither kept nor
written, and since what the client says when it fails may quote what was sent, none of that is passed on.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from studio.errors import StudioError
from studio.export import adapter, merged
from studio.export.kinds import Exported, Options, refusal
from studio.hub_status import endpoint, offline
from studio.jobs.progress import Report
from studio.models.builtin import public_id
from studio.models.problems import is_connection_problem
from studio.recipe import Recipe
from studio.recipe.methods import WHOLE
from studio.runs import Run
from studio.workspace import Workspace

T = TypeVar("T")
_REPO = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LOG_IN = "Set HF_TOKEN to a token that may write, or log in with `hf auth login`, and try again."


def push(run: Run, options: Options, progress: Report) -> Exported:
    """Put a run's model into a repository and look whether all of it has arrived.

    Raises:
        StudioError: no token, no right, the name is taken, no network, or something did not arrive.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    if not _REPO.fullmatch(options.repo) or "--" in options.repo or ".." in options.repo:
        raise StudioError(f"{options.repo!r} is not a repository's name.", "Write owner/name, or a name alone.")
    kind = what_to_push(run.recipe, options.what)
    if offline():
        raise StudioError("HF_HUB_OFFLINE keeps this machine off the Hub.", "Unset it, and try again.")
    if not get_token():
        raise StudioError("There is no token for the Hugging Face Hub.", _LOG_IN)
    disable_progress_bars()
    api = HfApi(endpoint=endpoint())
    with tempfile.TemporaryDirectory(prefix="push-", dir=Workspace.current().downloads) as aside:
        folder = Path(aside) / "model"
        made = (adapter if kind == "adapter" else merged).write(run, folder, options, progress)
        clean(folder, run.recipe)
        progress("Asking the Hub for the repository", 0, 0)
        repo = _plainly(options.repo, lambda: _create(api, options))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        progress(f"Uploading {len(files)} files", 0, size)
        message = f"{run.id}, tuned with SFT Studio"
        _plainly(repo, lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
        progress("Looking at what has arrived", size, size)
        info = _plainly(repo, lambda: api.model_info(repo, files_metadata=True))
        _demand_all(folder, files, info, repo)
    told = [f"All {len(files)} files are there, with the right checksums.", *made.told]
    told.append(f"The repository is {'private' if info.private else 'public'}.")
    return Exported("hub", f"{endpoint()}/{repo}", told)


def what_to_push(recipe: Recipe, what: str) -> str:
    """``adapter`` or ``merged``.

    Raises:
        StudioError: the run has no such thing, or it is of no use to anybody else.
    """
    if what == "auto":
        what = "merged" if recipe.method.kind in WHOLE else "adapter"
    if reason := refusal(recipe, what):
        raise reason
    base = public_id(recipe.model.id)
    if what == "adapter" and Path(base).expanduser().exists():
        raise StudioError(
            f"The adapter's base is {base}, a place on this machine that nobody else has.",
            "Push the whole model instead (merged), or train on a base of the Hub.",
        )
    return what


def clean(folder: Path, recipe: Recipe) -> None:
    """Take paths of this machine out of the card, which names them in its recipe; a base that is none on the Hub is
    left out of its head, where the Hub would refuse it."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    for name in local_paths(recipe):
        text = text.replace(name, Path(name).name)
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    if Path(public_id(recipe.model.id)).expanduser().exists():
        front.pop("base_model")
    card.write_text(f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{body}", encoding="utf-8")


def local_paths(recipe: Recipe) -> list[str]:
    """The places on this machine that a recipe names, longest first."""
    data = recipe.data
    named = [recipe.model.id, recipe.model.adapter, data.source, data.holdout_source, data.chat_template]
    named += [part.source for part in data.mix]
    return sorted({name for name in named if name and name.startswith(("/", "~"))}, key=len, reverse=True)


def _create(api: Any, options: Options) -> str:
    """Make the repository, or take the one that is there if it may be updated; its whole name."""
    made = api.create_repo(options.repo, private=options.private, repo_type="model", exist_ok=options.update)
    return made.repo_id


def _plainly(repo: str, ask: Callable[[], T]) -> T:
    """What the Hub answers.

    Raises:
        StudioError: it refuses or does not answer; without the words of its client.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except HfHubHTTPError as error:
        problem = _refused(repo, error.response.status_code)
    except Exception as error:  # noqa: BLE001  the client's words may hold what was sent, the token too
        if is_connection_problem(error) or isinstance(error, OSError):
            problem = StudioError(
                "The Hugging Face Hub does not answer.", "Check the network (and HF_ENDPOINT, if you set it)."
            )
        else:
            problem = StudioError(
                f"The upload to {repo} failed ({type(error).__name__}).", f"Try again in a while. {_LOG_IN}"
            )
    raise problem from None


def _refused(repo: str, status: int) -> StudioError:
    if status == 401:
        return StudioError("The Hub does not know your token: it is wrong, or no longer valid.", _LOG_IN)
    if status == 403:
        return StudioError(
            f"Your token has no right to write {repo}.",
            "Take a token with the right to write there, or a repository of your own.",
        )
    if status == 409:
        return StudioError(
            f"There is a repository {repo} already.", "Choose another name, or say that it may be updated (--update)."
        )
    if status == 404:
        return StudioError(f"The Hub has no place {repo}.", "Check the owner's name.")
    if status >= 500 or status == 429:
        return StudioError(f"The Hub failed ({status}).", "Try again in a while.")
    return StudioError(f"The Hub refused {repo} ({status}).", "Check the name, and the card of the run.")


def _demand_all(folder: Path, files: list[Path], info: Any, repo: str) -> None:
    """Refuse an upload of which a file is missing or another.

    Raises:
        StudioError: naming them.
    """
    there = {s.rfilename: (s.lfs.sha256 if s.lfs else s.blob_id) for s in info.siblings or []}
    wrong = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        if there.get(name) not in _sums(path):
            wrong.append(name)
    if wrong:
        raise StudioError(f"{', '.join(wrong)} did not arrive whole in {repo}.", "Push it again with --update.")


def _sums(path: Path) -> tuple[str, str]:
    """What the Hub knows a file by: its sha256, or the id that git gives it."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            sha256.update(part)
            blob.update(part)
    return sha256.hexdigest(), blob.hexdigest()
