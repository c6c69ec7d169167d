"""Datasets on the Hugging Face Hub: read row by row, and every failure said plainly."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from studio.data.files import Row
from studio.data.row_reader import class_name
from studio.errors import StudioError
from studio.recipe import SourceSpec
from studio.workspace import Workspace, safe_name

_TRUSTED_SECONDS = 60  # how long the commit of a dataset is believed without asking again
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_id(source: str) -> bool:
    """Whether ``source`` could be a Hub id: ``name`` or ``owner/name``."""
    return len(source) <= 193 and bool(_ID.fullmatch(source)) and ".." not in source  # 96 for each name


@contextmanager
def _plainly(data: SourceSpec) -> Iterator[None]:
    import datasets
    import httpx
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name = data.source
    try:
        yield
    except (DatasetNotFoundError, DataFilesNotFoundError) as error:
        if isinstance(error.__cause__, GatedRepoError) or "gated" in str(error).lower():
            raise StudioError(
                f"The dataset {name} is gated.",
                "Accept its terms on its page on the Hub, then set HF_TOKEN or log in with `hf auth login`.",
                field="data.source",
            ) from error
        raise StudioError(
            f"The Hub has no dataset {name} that can be read.",
            "Check the spelling (owner/name); a private one needs HF_TOKEN or `hf auth login`.",
            field="data.source",
        ) from error
    except ValueError as error:
        if "config" in str(error).lower() or "BuilderConfig" in str(error):
            raise StudioError(
                f"{name}: {str(error).splitlines()[0]}", "Set data.config to one of these.", field="data.config"
            ) from error
        if "split" in str(error).lower():
            raise StudioError(
                f"{name} has no split {data.split!r}.", f"{str(error).splitlines()[0]}", field="data.split"
            ) from error
        raise
    except (httpx.HTTPError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise unreachable(name) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise StudioError(f"{name} cannot be read: {error.__cause__ or error}.", "Try another dataset.") from error


def unreachable(name: str) -> StudioError:
    """The refusal for a dataset whose Hub does not answer."""
    return StudioError(
        f"The Hugging Face Hub does not answer, and {name} has not been read before.",
        "Connect to the network, or use a built-in dataset or a file.",
        field="data.source",
    )


def stream(data: SourceSpec, split: str, start: int = 1) -> Iterator[Row]:
    """The rows of a split from the number ``start`` on, as they arrive; labels by their names.

    Raises:
        StudioError: wrong id, gated, no such configuration or split, or the Hub does not answer.
    """
    from studio.hub_status import answers

    if not answers():
        raise unreachable(data.source)
    import datasets

    with _plainly(data):
        rows = datasets.load_dataset(
            data.source,
            data.config,
            data_dir=data.data_dir,
            split=split,
            revision=data.revision,
            streaming=data.streaming,
        )
        names = {
            column: getattr(feature, "feature", feature).names  # of a list of classes: those of its items
            for column, feature in (rows.features or {}).items()
            if isinstance(getattr(feature, "feature", feature), datasets.ClassLabel)
        }
        for number, values in enumerate(rows.skip(start - 1) if start > 1 else rows, start):
            named = {column: class_name(values.get(column), known) for column, known in names.items()}
            yield Row(number, {**values, **named}, from_table=True)


def identity(data: SourceSpec) -> list[Any]:
    """What tells one state of a Hub dataset from another: its commit; the last one seen if the Hub does not answer.

    Raises:
        StudioError: the dataset cannot be had, now or from an earlier reading.
    """
    from studio.hub_status import answers

    name = safe_name(f"{data.source}-{data.config}-{data.revision}".replace("/", "--"))
    seen = Workspace.current().datasets / f"{name}.commit"
    if seen.exists() and 0 <= time.time() - seen.stat().st_mtime < _TRUSTED_SECONDS:  # asked a moment ago
        return [data.source, seen.read_text(encoding="utf-8")]
    if not answers():
        if not seen.exists():
            raise unreachable(data.source)
        return [data.source, seen.read_text(encoding="utf-8")]
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    from studio.hub_status import endpoint

    with _plainly(data):
        try:
            commit = HfApi(endpoint=endpoint()).dataset_info(data.source, revision=data.revision, timeout=10).sha
        except RevisionNotFoundError as error:
            raise StudioError(
                f"{data.source} has no revision {data.revision!r}.", "Check data.revision.", field="data.revision"
            ) from error
        except GatedRepoError as error:
            raise StudioError(
                f"The dataset {data.source} is gated.",
                "Accept its terms on its page on the Hub, then set HF_TOKEN or log in with `hf auth login`.",
                field="data.source",
            ) from error
        except RepositoryNotFoundError as error:
            raise StudioError(
                f"The Hub has no dataset {data.source}.",
                "Check the spelling (owner/name); a private one needs HF_TOKEN or `hf auth login`.",
                field="data.source",
            ) from error
    seen.write_text(str(commit), encoding="utf-8")
    return [data.source, commit]


def splits(data: SourceSpec) -> list[str]:
    """The names of the dataset's splits; only the recipe's own if the Hub does not answer."""
    from studio.hub_status import answers

    if not answers():
        return [data.split]
    import datasets

    with _plainly(data):
        return datasets.get_dataset_split_names(data.source, data.config, revision=data.revision)
