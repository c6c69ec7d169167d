"""A suite asked of several models, in batches: every answer is kept as it comes, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.evaluation.checks import passes
from studio.evaluation.figures import figures_of
from studio.evaluation.metrics import METRICS, Metric
from studio.evaluation.suites import Prompt, Suite
from studio.inference import Engine, Handle, Sampling, Target
from studio.jobs.progress import Report, quiet
from studio.workspace import Workspace, safe_name

GREEDY = Sampling(temperature=0, max_new_tokens=256)
_AT_ONCE = 32  # prompts of a batch, after which the answers are on the disk


@dataclass(frozen=True)
class Answer:
    """What a model said to a prompt; ``error`` instead of an output where it could not be asked."""

    prompt_id: str
    output: str
    new_tokens: int
    error: str = ""


@dataclass(frozen=True)
class SuiteRun:
    """A suite with the answers of its models, by the model's name and the prompt's id."""

    suite: Suite
    answers: dict[str, dict[str, Answer]]
    _passed: dict[tuple[str, str], float | None] = field(default_factory=dict, repr=False, compare=False)  # computed

    def whole(self, name: str) -> bool:
        """Whether a model has answered every prompt."""
        return len(self.answers[name]) == len(self.suite.prompts)

    def figures(self, tag: str | None = None, own: Sequence[Metric] = ()) -> dict[str, Any]:
        """Every metric over the prompts that all models have answered, as ``studio.evaluation.figures`` gives them.

        ``passed`` is the share of checks that an answer passes, over the prompts that have one.
        """
        prompts = [p for p in self.answered() if tag is None or tag in p.tags]
        values = {name: {} for name in self.answers}
        for name in self.answers:
            for metric in (*METRICS.values(), *own):
                values[name][metric.key] = [self._score(metric, p, self.answers[name][p.id].output) for p in prompts]
            values[name] = {"passed": [self.passed(name, p) for p in prompts], **values[name]}
        return figures_of(values)

    def answered(self) -> list[Prompt]:
        """The prompts that every model has answered, in their order."""
        everybody = self.answers.values()
        return [p for p in self.suite.prompts if all(p.id in each and not each[p.id].error for each in everybody)]

    def passed(self, name: str, prompt: Prompt) -> float | None:
        """Whether a model's answer does what the prompt asks for; None for a prompt without a check, and where the
        check's regular expression takes too long on the answer."""
        if not prompt.check:
            return None
        key = (name, prompt.id)
        if key not in self._passed:
            self._passed[key] = _passes(prompt.check, self.answers[name][prompt.id].output)
        return self._passed[key]

    @property
    def undecided(self) -> int:
        """Answers whose check took too long, so that they are neither passed nor failed."""
        checked = [(name, p) for p in self.answered() if p.check for name in self.answers]
        return sum(self.passed(name, prompt) is None for name, prompt in checked)

    def scores(self, name: str, prompt: Prompt) -> dict[str, float]:
        """Every metric that says something about a model's answer, by its key."""
        output = self.answers[name][prompt.id].output
        found = {metric.key: self._score(metric, prompt, output) for metric in METRICS.values()}
        return {key: round(value, 4) for key, value in found.items() if value is not None}

    @staticmethod
    def _score(metric: Metric, prompt: Prompt, output: str) -> float | None:
        if prompt.reference is None and metric.key not in ("distinct_2", "loops"):
            return None
        return metric.score(output, prompt.reference or "")


def _passes(check: dict[str, Any], output: str) -> float | None:
    try:
        return float(passes(check, output))
    except StudioError as error:
        if error.code != "regex-too-slow":
            raise
        return None


def run_suite(
    suite: Suite,
    targets: Sequence[Target | str],
    engine: Engine,
    *,
    sampling: Sampling = GREEDY,
    progress: Report = quiet,
    stopped: Callable[[], bool] = lambda: False,
) -> SuiteRun:
    """Ask every model every prompt that it has not answered yet.

    The answers stand in the workspace, a line each, under a key of everything that they depend on: prompts, sampling
    and the model's files. A killed run goes on where it was; the same suite again costs nothing.

    Args:
        stopped: asked after each batch; True pauses the run, and what is answered is kept.

    Raises:
        StudioError: a model cannot be opened, memory ran out, or the disk is full.
    """
    texts = iter(Target.parse_all([t for t in targets if isinstance(t, str)]))
    chosen = [next(texts) if isinstance(target, str) else target for target in targets]
    if not chosen:
        raise StudioError("There is no model to ask.", "Name at least one run, or base.")
    answers: dict[str, dict[str, Answer]] = {}
    for number, target in enumerate(chosen):
        path = answers_path(suite, target, engine, sampling)
        kept = read_answers(path)
        done = {p.id: kept[p.id] for p in suite.prompts if p.id in kept}
        waiting = [p for p in suite.prompts if p.id not in done]
        if waiting and not stopped():
            handle = engine.open(target, progress)
            what = f"Asking {handle.name}"
            with path.open("a", encoding="utf-8") as file:
                while waiting and not stopped():
                    progress(what, number * len(suite.prompts) + len(done), len(chosen) * len(suite.prompts))
                    now, waiting = _next_batch(waiting)
                    for answer in _ask(handle, now, sampling):
                        _write(file, path, answer)
                        done[answer.prompt_id] = answer
        answers[target.name] = done
    total = len(chosen) * len(suite.prompts)
    progress(f"Asked {suite.name}", sum(map(len, answers.values())), total)
    return SuiteRun(suite, answers)


def answers_path(suite: Suite, target: Target, engine: Engine, sampling: Sampling) -> Path:
    """Where a model's answers to a suite stand."""
    parts = [suite.fingerprint, asdict(sampling), engine.identity(target)]
    key = hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{safe_name(suite.name, 'suite')}-{safe_name(target.name)}-{key}.jsonl"
    return Workspace.current().folder("suites") / name


def read_answers(path: Path) -> dict[str, Answer]:
    """The answers in a file, by the prompt's id; a line that was torn by a kill is left out, and cut off."""
    found: dict[str, Answer] = {}
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return found
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for line in whole.splitlines():
        try:
            answer = Answer(**json.loads(line))
        except (ValueError, TypeError, RecursionError):  # damaged: it is asked again
            continue
        if not isinstance(answer.prompt_id, str) or not isinstance(answer.output, str):
            continue
        if not answer.error:
            found[answer.prompt_id] = answer
    return found


def _next_batch(waiting: list[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts of similar length, the longest first, so that little is padded."""
    ordered = sorted(waiting, key=lambda p: sum(len(m["content"]) for m in p.messages), reverse=True)
    return ordered[:_AT_ONCE], ordered[_AT_ONCE:]


def _ask(handle: Handle, prompts: list[Prompt], sampling: Sampling) -> list[Answer]:
    """The answers to some prompts; one that the model cannot take is told as such, the others are answered."""
    from studio.inference.batches import answer_batches
    from studio.inference.generate import prompt_ids, room_for_answer

    answers, fit = [], []
    for prompt in prompts:
        try:
            ids = prompt_ids(handle, list(prompt.messages))
            room_for_answer(handle, len(ids), sampling.max_new_tokens)
            fit.append(prompt)
        except StudioError as error:
            answers.append(Answer(prompt.id, "", 0, error.what))
    for batch in answer_batches(handle, [list(p.messages) for p in fit], sampling):
        answers += [Answer(fit[number].id, output, tokens) for number, output, tokens in batch]
    return answers


def _write(file: Any, path: Path, answer: Answer) -> None:
    try:
        file.write(json.dumps(asdict(answer), ensure_ascii=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise StudioError(
            f"{path} cannot be written: {error.strerror}.", "Free some disk space, then go on."
        ) from error
