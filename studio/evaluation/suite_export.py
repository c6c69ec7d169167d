"""A suite's answers as files: CSV, JSON lines, Markdown, and LLM Comparator's JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from studio.errors import StudioError
from studio.evaluation.suite_run import SuiteRun

FORMATS = ("csv", "jsonl", "md", "llm-comparator")
_RISKY = ("=", "+", "-", "@", "\t", "\r")


def export(run: SuiteRun, kind: str) -> str:
    """The answers as text of a kind of :data:`FORMATS`.

    Raises:
        StudioError: no such kind, or LLM Comparator's for other than two models.
    """
    if kind not in FORMATS:
        raise StudioError(f"There is no format {kind!r}.", f"Use one of: {', '.join(FORMATS)}.")
    return {"csv": _csv, "jsonl": _json_lines, "md": _markdown, "llm-comparator": _llm_comparator}[kind](run)


def rows(run: SuiteRun) -> list[dict[str, Any]]:
    """One row a prompt: ``id``, ``tags``, ``prompt``, ``reference``, and of each model ``output``,
    ``new_tokens``, ``passed`` and ``scores`` (every metric that says something about it)."""
    return [
        {
            "id": prompt.id,
            "tags": list(prompt.tags),
            "prompt": prompt.text,
            "reference": prompt.reference,
            "answers": {
                name: {
                    "output": answers[prompt.id].output,
                    "error": answers[prompt.id].error,
                    "new_tokens": answers[prompt.id].new_tokens,
                    "passed": None if answers[prompt.id].error else run.passed(name, prompt),
                    "scores": {} if answers[prompt.id].error else run.scores(name, prompt),
                }
                for name, answers in run.answers.items()
                if prompt.id in answers
            },
        }
        for prompt in run.suite.prompts
    ]


def _csv(run: SuiteRun) -> str:
    return csv_of(rows(run), list(run.answers))


def csv_of(answers: list[dict[str, Any]], names: list[str]) -> str:
    """:func:`rows` as CSV, a column for each of the models."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["id", "tags", "prompt", "reference", *names, *(f"{name}: passed" for name in names)])
    for row in answers:
        given = [row["answers"].get(name, {}) for name in names]
        passed = ["" if each.get("passed") is None else int(each["passed"]) for each in given]
        cells = [row["id"], ";".join(row["tags"]), row["prompt"], row["reference"] or ""]
        writer.writerow([_harmless(cell) for cell in [*cells, *(each.get("output", "") for each in given)]] + passed)
    return out.getvalue()


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet takes for text: what begins like a formula gets an apostrophe (CSV injection)."""
    return f"'{cell}" if cell.startswith(_RISKY) else cell


def _json_lines(run: SuiteRun) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(run))


def _markdown(run: SuiteRun) -> str:
    names = list(run.answers)
    lines = [
        f"# {run.suite.name}",
        "",
        f"| prompt | {' | '.join(map(_cell, names))} |",
        "| --- |" + " --- |" * len(names),
    ]
    for row in rows(run):
        given = [row["answers"].get(name, {}) for name in names]
        marks = [{None: "", 1.0: "✓ ", 0.0: "✗ "}[each.get("passed")] + each.get("output", "") for each in given]
        lines.append(f"| {_cell(row['prompt'])} | {' | '.join(map(_cell, marks))} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that stays in its cell and is not taken for markup."""
    for sign in "\\`*_{}[]<>#|~":
        text = text.replace(sign, f"\\{sign}")
    return "<br>".join(text.split("\n"))


def _llm_comparator(run: SuiteRun) -> str:
    """What https://github.com/PAIR-code/llm-comparator opens: two models, a score above 0 where the first is better."""
    names = list(run.answers)
    if len(names) != 2:
        raise StudioError("LLM Comparator shows two models.", f"Name two; these are {len(names)}.")
    examples = []
    for row in rows(run):
        first, second = (row["answers"].get(name) for name in names)
        if not first or not second or first["error"] or second["error"]:
            continue
        passed = first["passed"], second["passed"]
        score = 0.0 if None in passed else passed[0] - passed[1]
        examples.append(
            {
                "input_text": row["prompt"],
                "tags": row["tags"],
                "output_text_a": first["output"],
                "output_text_b": second["output"],
                "score": score,
                "individual_rater_scores": [],
                "custom_fields": {},
            }
        )
    whole = {
        "metadata": {"source_path": run.suite.name, "custom_fields_schema": []},
        "models": [{"name": name} for name in names],
        "examples": examples,
    }
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
