"""How runs, rows and tables look in a terminal. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from studio.data.quality_report import Report as DataReport
from studio.data.quality_report import severity
from studio.errors import StudioError, StudioErrors
from studio.jobs.progress import Report
from studio.runs import RunSnapshot
from studio.runs.events import finite
from studio.utf8 import writes_utf8

LINE_SECONDS = 5.0  # where there is no terminal: at most one line of progress in this time
TRAINED = "bold green"  # the style of tokens that carry loss
OPEN, CLOSE = "⟦", "⟧"  # and their marks, where there are no colours
STATUS_STYLES = {"running": "cyan", "finished": "green", "failed": "red", "interrupted": "yellow", "stopped": "yellow"}


def stderr() -> Console:
    """A console on what ``sys.stderr`` is now."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """A console on what ``sys.stdout`` is now; it wraps only where a person reads along."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, 160))


def show_error(error: StudioError) -> None:
    """What went wrong and what to do about it, each problem in lines of its own."""
    console = stderr()
    problems = error.problems if isinstance(error, StudioErrors) else [error]
    if len(problems) > 1:
        console.print(f"[bold red]{len(problems)} problems:[/]", soft_wrap=True)
    for problem in problems:
        console.print(f"[bold red]Error:[/] {escape(problem.what)}", soft_wrap=True)
        if problem.fix:
            console.print(f"       {escape(problem.fix)}", soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout; numbers that JSON has no word for are null."""
    as_ascii = not writes_utf8(sys.stdout)
    print(json.dumps(finite(document), ensure_ascii=as_ascii, indent=1, allow_nan=False), flush=True)


class Board:
    """A progress line on stderr: a moving bar on a terminal; elsewhere plain lines, few enough for a log file."""

    def __init__(self) -> None:
        self.console = stderr()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[numbers]}"))
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("Starting", total=None, numbers="")
        self._stage, self._line, self._line_time = "", "", 0.0
        self._chosen = False  # whether it was said what the worker chose

    def __enter__(self) -> Board:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._bar.console.print(text, style=style, markup=False, soft_wrap=True)

    def update(self, what: str, done: float, total: float, numbers: str) -> None:
        """Show ``done`` of ``total`` of ``what`` (``total`` 0: not known) and a few ``numbers`` beside it."""
        self._bar.update(self._task, description=what, completed=done, total=total or None, numbers=numbers)
        if self.console.is_terminal:
            return
        now, line = time.monotonic(), f"{what}  {numbers}".rstrip()
        new_stage, at_its_end = what != self._stage, bool(total) and done >= total
        if line != self._line and (new_stage or at_its_end or now - self._line_time >= LINE_SECONDS):
            self._stage, self._line, self._line_time = what, line, now
            self.say(line)

    def report(self, what: str, done: int, total: int) -> None:
        """A :data:`studio.jobs.progress.Report`."""
        self.update(what, done, total, counted(what, done, total))

    def follow(self, view: RunSnapshot, now: float) -> None:
        """The state of a run at ``now`` (unix seconds)."""
        if view.stage is not None:
            self.report(view.stage["what"], view.stage["done"], view.stage["total"])
        elif view.started is not None:
            if not self._chosen and (told := view.started.get("choices")):
                self._chosen = True
                self.say("Chosen: " + "; ".join(f"{one['what']} {one['chosen']}" for one in told) + ".")
            self.update("Training", view.step, view.max_steps, step_numbers(view, now))


def counted(what: str, done: int, total: int) -> str:
    """``done`` of ``total`` with their unit: rows while data is encoded, otherwise bytes."""
    if not total:
        return ""
    if total < 10_000 or what.startswith("Encoding"):
        return f"{done:,} of {total:,}"
    return f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB"


def step_numbers(view: RunSnapshot, now: float) -> str:
    """Step, losses, speed and the time left, as far as they are known."""
    parts = [f"step {view.step} of {view.max_steps}"]
    if view.loss is not None:
        parts.append(f"loss {view.loss:.4f}")
    if view.eval_loss is not None:
        parts.append(f"validation loss {view.eval_loss:.4f}")
    if view.tokens_per_second is not None:
        parts.append(f"{view.tokens_per_second:,.0f} tokens/s")
    left = view.seconds_left(now)
    if left is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def working() -> Iterator[Report]:
    """A :data:`Report` shown on stderr. What libraries print on stdout meanwhile goes to stderr too."""
    kept = sys.stdout
    with Board() as board:
        sys.stdout = sys.stderr
        try:
            yield board.report
        finally:
            sys.stdout = kept


def show_legend(console: Console, max_length: int) -> None:
    """What the colours (or marks) of :func:`token_text` mean."""
    trained, cut = Text("carries loss", style=TRAINED), Text("cut off", style="dim strike")
    if not _colours(console):
        trained, cut = Text(f"{OPEN}carries loss{CLOSE}"), Text("the part behind ⟪cut⟫ is cut off")
    console.print("Tokens: ", trained, ", context only, ", cut, f" (data.max_length {max_length}).", sep="")


def token_text(console: Console, encoded: Any) -> Text:
    """The text of an ``Encoded``: what carries loss, what is context, and what ``max_length`` cuts off."""
    colours, text = _colours(console), Text()
    position, inside = 0, False
    for (start, end), label in zip(encoded.offsets, encoded.labels, strict=True):
        trained = label != -100
        if not colours and trained != inside:
            text.append(CLOSE if inside else OPEN)
        inside = trained
        piece = encoded.text[max(start, position) : end]  # tokens of one character's bytes share their characters
        text.append(piece, style=TRAINED if trained and colours else None)
        position = max(position, end)
    if not colours and inside:
        text.append(CLOSE)
    rest = encoded.text[position:]
    if rest:
        text.append(rest if colours else f"⟪cut⟫{rest}", style="dim strike" if colours else None)
    return text


def show_refusal(console: Console, number: int | str, error: StudioError) -> None:
    """Why the encoder refuses a row, and the rendered row with the place marked."""
    console.print(f"\n[bold]Row {number}[/]  [red]refused[/] ({error.code})", soft_wrap=True)
    console.print(f"{error.what} {error.fix}", markup=False, soft_wrap=True)
    text, place = getattr(error, "text", ""), getattr(error, "place", None)
    if text and place:
        start, end = place
        here = "⟪here⟫" if not _colours(console) or start == end else ""
        console.print(Text.assemble(text[:start], here, (text[start:end], "reverse"), text[end:]), soft_wrap=True)
    elif text:
        console.print(text, markup=False, soft_wrap=True)


def _colours(console: Console) -> bool:
    return console.is_terminal and not console.no_color


def runs_table(runs: list[dict[str, Any]]) -> Table:
    table = Table("Run", "Status", "Recipe", "Step", "Loss", "Started", "Took")
    for run in runs:
        word = f"{run['status']} (damaged)" if run.get("damaged") else run["status"]
        status = Text(word, style=STATUS_STYLES.get(run["status"], ""))
        loss = "" if run["loss"] is None else f"{run['loss']:.4f}"
        steps = f"{run['step']} of {run['max_steps']}" if run["max_steps"] else ""
        started = datetime.fromtimestamp(run["started"]).strftime("%Y-%m-%d %H:%M") if run["started"] else ""
        took = duration(run["ended"] - run["started"]) if run["ended"] and run["started"] else ""
        table.add_row(Text(run["id"]), status, Text(run["recipe"]), steps, loss, started, took)
    return table


def answers_table(answers: list[dict[str, Any]], prompt: str) -> Table:
    table = Table("Model", "Answer", "Tokens", "Seconds", title=Text(prompt), title_justify="left", show_lines=True)
    for answer in answers:
        seconds = f"{answer['seconds']:.2f}"
        table.add_row(Text(answer["model"]), Text(answer["output"]), str(answer["new_tokens"]), seconds)
    return table


def scores_table(scores: dict[str, Any]) -> Table:
    title = f"{scores['rows']} held-out rows, with 95 % intervals"
    table = Table("Metric", "Base", "", "Tuned", "", "Chance", title=title, title_justify="left")
    for name in dict.fromkeys([*scores["base"], *scores["tuned"]]):
        cells = []
        for side in ("base", "tuned"):
            around = scores["intervals"][side].get(name)
            cells += [_score(scores[side].get(name)), f"{_score(around[0])} to {_score(around[1])}" if around else ""]
        p = scores["p_values"].get(name)
        table.add_row(name.replace("_", " "), *cells, "" if p is None else f"{p:.2g}")
    seen = scores["seen"]
    table.add_row(f"loss on {seen['rows']} trained rows", _score(seen["base"]), "", _score(seen["tuned"]), "", "")
    return table


def class_names(label: str | list[str]) -> str:
    """``class billing``, ``classes billing, app``, or ``no class``."""
    if isinstance(label, str):
        return f"class {label}"
    return f"class{'es'[: 2 * (len(label) != 1)]} {', '.join(label)}" if label else "no class"


def class_tables(scores: dict[str, Any]) -> list[Table]:
    """A classifier beside its baseline; each class; and what was taken for what."""
    base, tuned = scores["base"], scores["tuned"]
    title = f"{scores['rows']} held-out rows"
    whole = Table("Metric", f"Base: {escape(base['what'])}", "Tuned", title=title, title_justify="left")
    for name in ("accuracy", "macro_f1", "loss"):
        whole.add_row(name.replace("_", " "), _score(base.get(name)), _score(tuned.get(name)))
    each = Table("Class", "Precision", "Recall", "F1", "Rows")
    for name, found in tuned["per_class"].items():
        numbers = [_score(found[part]) for part in ("precision", "recall", "f1")]
        each.add_row(Text(name), *numbers, str(found["rows"]))
    if scores["multi_label"]:
        return [whole, each]
    names = tuned["confusion"]["labels"]
    table = Table("Wanted \\ given", *(escape(name) for name in names))
    for name, counts in zip(names, tuned["confusion"]["counts"], strict=True):
        table.add_row(Text(name), *(str(count) if count else "" for count in counts))
    return [whole, each, table]


def _score(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def estimate_table(estimate: dict[str, Any]) -> Table:
    table = Table("What", "Estimate", show_header=False)
    trainable, total = estimate["trainable_parameters"], estimate["total_parameters"]
    share = f" ({trainable / total:.2%} of {total:,})" if total else ""
    table.add_row("trained parameters", f"{trainable:,}{share}")
    table.add_row("optimizer steps", f"{estimate['steps']:,}")
    for part, size in estimate["memory_bytes"].items():
        table.add_row(f"memory: {part}", memory(size), style="bold" if part == "total" else "")
    for part, size in estimate["disk_bytes"].items():
        table.add_row(f"disk, at most: {part}", memory(size), style="bold" if part == "total" else "")
    return table


def memory(size: int) -> str:
    """Bytes as ``3.4 GiB`` or ``12 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def show_report(console: Console, report: DataReport) -> None:
    """A dataset in numbers, and what was found in it with the first rows of each finding."""
    share = report.trained_tokens / max(1, report.tokens)
    learnt = "" if report.classes else f", {share:.1%} carry loss"
    console.print(
        f"{report.rows:,} rows, {report.kept:,} kept: {report.tokens:,} tokens an epoch{learnt}; "
        f"the longest row has {report.longest:,} tokens.",
        soft_wrap=True,
    )
    if report.classes:
        counts = ", ".join(f"{name} {count:,}" for name, count in report.classes)
        console.print(f"{len(report.classes):,} classes: {counts}.", markup=False, soft_wrap=True)
    for note in report.notes:
        console.print(note, markup=False, soft_wrap=True)
    for finding in report.findings:
        kind, what, fix = severity(finding)
        style = {"bad": "red", "warn": "yellow", "note": "cyan"}[kind]
        console.print(f"\n[bold {style}]{finding.count:,} rows: {what}.[/] {fix}", soft_wrap=True)
        if finding.kind == "refused" and report.refusals:
            codes = ", ".join(f"{code} {count:,}" for code, count in report.refusals.items())
            console.print(f"  by code: {codes}", markup=False, soft_wrap=True)
        for row, text in finding.rows[:5]:
            console.print(f"  row {row:,}  {text}", markup=False, soft_wrap=True)
    if not report.findings:
        console.print("Nothing was found.")
