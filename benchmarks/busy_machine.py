"""How fast the quickstart trains alone and beside busy processes, with the studio and with plain TRL.

    env -u OMP_WAIT_POLICY python benchmarks/busy_machine.py        # the studio and TRL, alone and beside one process
    python benchmarks/busy_machine.py --contenders studio --busy 0 1 3 --repeat 2
    env GOMP_SPINCOUNT=300000 python benchmarks/busy_machine.py --contenders studio  # as if nothing were done about it

A busy process is a Python loop in a session of its own. ``studio`` is ``python app.py train recipes/quickstart.yaml``
without validation and checkpoints; ``trl`` and ``trl-tuned`` are those of ``throughput.py`` on as many rows of the same
data. Prints real tokens a second from the end of the second step to the end of the last one, the same as a share of the
speed alone, and the processor seconds of the whole command (imports, loading and saving included), also as a multiple
of those alone. All variants of a turn run one after the other, so that a change of the machine's speed hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from throughput import LEARNING_RATE, RANK, model_folder, rows_of  # noqa: E402

_WARM_STEPS = 2  # not measured: batches are tried both ways, and oneDNN makes its kernels


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many Python loops beside what runs in the block."""
    # it ends by itself when this script is killed
    code = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"
    loop = [sys.executable, "-c", code, str(os.getpid())]
    started = [subprocess.Popen(loop, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def timed(command: list[str], folder: Path, **options: Any) -> tuple[str, float]:
    """The output of a command, and the processor seconds that it and its children took."""
    with (folder / "log.txt").open("w+b") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, **options)
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        assert process.returncode == 0, log.read().decode()[-3000:]
    return output, used.ru_utime + used.ru_stime


def studio(steps: int, folder: Path) -> dict[str, float]:
    """The quickstart's first steps by the terminal command."""
    changes = [f"train.max_steps={steps}", "train.eval_steps=0", "train.save_steps=0", "train.sample_count=0"]
    command = [sys.executable, str(ROOT / "app.py"), "train", str(ROOT / "recipes" / "quickstart.yaml"), *changes]
    output, processor = timed(command, folder, cwd=ROOT)
    path = Path(os.environ["STUDIO_HOME"]) / "runs" / output.split()[-1] / "events.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    measured = [event for event in found if event["kind"] == "step"]
    begin, end = measured[_WARM_STEPS - 1], measured[-1]
    speed = (end["tokens"] - begin["tokens"]) / (end["time"] - begin["time"])
    return {"tokens_per_second": speed, "processor_seconds": processor}


def trl(name: str, job: dict[str, Any], folder: Path) -> dict[str, float]:
    """As many steps by TRL."""
    job = {**job, "folder": str(folder), "out": str(folder / "result.json"), "started": time.time()}
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    _, processor = timed([sys.executable, str(ROOT / "benchmarks" / "contender.py"), name, str(path)], folder)
    found = json.loads(Path(job["out"]).read_text(encoding="utf-8"))
    times = found["step_times"]
    tokens = found["tokens"] * (len(times) - _WARM_STEPS) / len(times)
    speed = tokens / (times[-1] - times[_WARM_STEPS - 1])
    return {"tokens_per_second": speed, "processor_seconds": processor}


def job_for(steps: int) -> dict[str, Any]:
    """What TRL trains: the first rows of the quickstart's data, four a step."""
    from transformers import AutoTokenizer

    from studio.models.load import resolve_dtype

    base = model_folder(None, None, Path())
    rows, encoded = rows_of(None, 4 * steps, AutoTokenizer.from_pretrained(base), 512, False)
    return {
        **{
            "model": str(base),
            "rows": rows,
            "encoded": encoded,
            "batch": 4,
            "length": 512,
            "full": False,
            "r": 2 * RANK,
        },
        **{"lora_alpha": 4 * RANK, "learning_rate": LEARNING_RATE, "seed": 0, "device": "cpu"},
        "dtype": resolve_dtype("auto", "cpu"),
    }


def table(found: dict[tuple[str, int], list[dict[str, float]]]) -> str:
    """Medians of all turns; shares of the same contender alone."""
    heads = [
        "contender",
        "busy processes",
        "real tokens/s",
        "of the speed alone",
        "processor seconds",
        "of those alone",
    ]
    lines = [heads, ["---"] * len(heads)]
    middle = {
        key: {name: statistics.median(one[name] for one in turns) for name in turns[0]} for key, turns in found.items()
    }
    for (name, busy), one in middle.items():
        alone = middle.get((name, 0), {})
        shares = [f"{one[what] / alone[what]:.2f}" if alone else "" for what in one]
        speed, processor = f"{one['tokens_per_second']:.0f}", f"{one['processor_seconds']:.0f}"
        lines.append([name, str(busy), speed, shares[0], processor, shares[1]])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=("studio", "trl", "trl-tuned"), default=["studio", "trl"])
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("STUDIO_HOME", str(ROOT / "workspace"))
    job = job_for(options.steps) if {*options.contenders} - {"studio"} else {}
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for turn in range(options.repeat):
        for name in options.contenders:
            for busy in options.busy:
                with tempfile.TemporaryDirectory() as folder, busy_processes(busy):
                    given = Path(folder)
                    one = studio(options.steps, given) if name == "studio" else trl(name, job, given)
                found.setdefault((name, busy), []).append(one)
                print(f"{turn} {name} beside {busy}: {one}", file=sys.stderr, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
