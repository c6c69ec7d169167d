"""``python -m studio.export RUN_DIR JSON``: the process in which the page's exports are made."""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

from studio.errors import StudioError
from studio.export import Options, export, job
from studio.runs import Run

_EVERY_SECONDS = 0.3  # how often at most the file is written while the words stay the same


class Told:
    """A :data:`studio.jobs.progress.Report` that writes into the run's ``export.json``."""

    def __init__(self, run: Run, kind: str):
        self._run, self._kind, self._what, self._time = run, kind, "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what == self._what and now - self._time < _EVERY_SECONDS:
            return
        self._what, self._time = what, now
        job.write(self._run, {"state": "working", "kind": self._kind, "what": what, "done": done, "total": total})


def main(folder: str, asked: str) -> int:
    run, wanted = Run(Path(folder)), json.loads(asked)
    kind = wanted["kind"]
    try:
        made = export(run, kind, wanted["to"], Options(**wanted["options"]), Told(run, kind))
    except StudioError as error:
        job.write(run, {"state": "failed", "kind": kind, "what": error.what, "fix": error.fix})
        return 1
    except Exception as error:  # noqa: BLE001  the edge: the page says that it has failed, the log has the rest
        traceback.print_exc()
        what = f"The export failed: {type(error).__name__}."
        job.write(run, {"state": "failed", "kind": kind, "what": what, "fix": f"See {job.LOG} in the run's folder."})
        return 1
    job.keep_place(run, made.path)
    job.write(run, {"state": "done", **made.to_dict()})
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
