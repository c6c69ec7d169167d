"""The report of a run as a page of its own: one HTML file with its charts, that asks no other host for anything."""

from __future__ import annotations

from html import escape
from typing import Any

from studio.evaluation.metrics import METRICS, Metric
from studio.evaluation.report_charts import bars, chart
from studio.recipe.methods import METHODS
from studio.runs import Run
from studio.workspace import ASSETS

_TITLES = {"loss": "Loss", "perplexity": "Perplexity", "passed": "Passed"}
_LOWER = {"loss", "perplexity"} | {key for key, metric in METRICS.items() if metric.better == "low"}
# of the verdict: what is neither good nor bad, and what says the same as another metric
_LEFT_OUT = {key for key, metric in METRICS.items() if not metric.better}
_LEFT_OUT |= {"perplexity", "normalized_match", "json_valid", "rouge_l", "bleu", "chrf"}
_CHANCE = 0.05
_HAIKU = "haiku"


def page(run: Run, report: dict[str, Any]) -> str:
    """The report as a whole HTML file."""
    style = (ASSETS / "evaluation.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.id)}</title><style>{style}</style></head>"
        f'<body class="alone"><main>{body(run, report)}{_recipe(run)}</main></body></html>\n'
    )


def body(run: Run, report: dict[str, Any]) -> str:
    """What the report says, for a page that has the stylesheet already."""
    scores = report["scores"]
    if "classes" in scores:
        return f'<div class="evaluation">{_head(run, scores)}{_classes(scores)}</div>'
    parts = [
        _head(run, scores),
        _verdict(report),
        _held_out(scores),
        _gap(scores),
        *(_suite(suite) for suite in report["suites"]),
        _forgetting(report),
        _learnt_by_heart(report),
        _haiku(report),
        _examples(report),
    ]
    return f'<div class="evaluation">{"".join(parts)}</div>'


def _head(run: Run, scores: dict[str, Any]) -> str:
    recipe = run.recipe
    facts = [
        ("Base", recipe.model.id),
        ("Method", METHODS[recipe.method.kind].title),
        ("Data", recipe.data.source),
        (
            "Held-out rows",
            f"{scores['rows']:,}" + (f", {scores['skipped']} skipped" if scores.get("skipped") else ""),
        ),
    ]
    cells = "".join(f"<div><span>{name}</span><b>{escape(value)}</b></div>" for name, value in facts)
    return f'<h1>{escape(run.label.name or run.id)}</h1><div class="about">{cells}</div>'


def _verdict(report: dict[str, Any]) -> str:
    """What got better and what got worse, where chance would seldom do it, in a sentence each."""
    better, worse = [], []
    for name, figures in _all_figures(report):
        for key, p in figures["p_values"].items():
            base, tuned = figures["means"]["base"].get(key), figures["means"]["tuned"].get(key)
            if key in _LEFT_OUT or p is None or p >= _CHANCE or base is None or tuned is None:
                continue
            improved = (tuned < base) == (key in _LOWER)
            said = f"{name}: {_title(key)} {_number(key, base)} → {_number(key, tuned)}"
            (better if improved else worse).append(said)
    lines = []
    for kind, title, said in (("good", "Better", better), ("bad", "Worse", worse)):
        items = "".join(f"<li>{escape(each)}</li>" for each in said) or "<li>nothing that chance would not do too</li>"
        lines.append(f'<div class="verdict {kind}"><h2>{title} than the base</h2><ul>{items}</ul></div>')
    return f'<div class="verdicts">{"".join(lines)}</div>'


def _all_figures(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    scores = report["scores"]
    held_out = {"means": {side: scores[side] for side in ("base", "tuned")}, "p_values": scores["p_values"]}
    found = [("Held-out rows", held_out)]
    found += [(f"Suite {suite['name']}", suite["figures"]) for suite in report["suites"]]
    return [*found, ("Plain text", report["plain_text"])] if report["plain_text"] else found


def _held_out(scores: dict[str, Any]) -> str:
    figures = {
        "means": {side: scores[side] for side in ("base", "tuned")},
        "intervals": scores["intervals"],
        "p_values": scores["p_values"],
        "counts": scores["counts"],
    }
    shares = [key for key in figures["counts"] if _is_share(key)]
    return _section(
        "Held-out rows",
        "Rows that were not trained on. Dots are means, lines their 95 % intervals; chance says how often two alike "
        "models would differ so much.",
        chart([(_title(key), _ends(figures, key)) for key in shares]) + table(figures),
    )


def _gap(scores: dict[str, Any]) -> str:
    seen = scores["seen"]
    if not seen["rows"]:
        return ""
    rows = [
        ("Rows that were trained on", seen),
        ("Held-out rows", {s: scores[s]["loss"] for s in ("base", "tuned")}),
    ]
    gap = scores["tuned"]["loss"] - seen["tuned"] - (scores["base"]["loss"] - seen["base"])
    said = (
        f"The tuned model's loss is {gap:+.3f} higher on held-out rows than on rows it has seen, the base's own "
        "difference between the two taken off. Near 0 it has learnt the task; far above, it has memorised the rows."
    )
    return _section("Learnt, or memorised", said, bars(rows))


def _suite(suite: dict[str, Any]) -> str:
    figures, name = suite["figures"], suite["name"]
    rows = [("All", _ends(figures, "passed"))] if "passed" in figures["counts"] else []
    rows += [(tag, _ends(each, "passed")) for tag, each in suite["tags"].items() if "passed" in each["counts"]]
    by_id = {row["id"]: row for row in suite["answers"]}
    changed = ""
    for title, ids in (("Lost", suite["lost"]), ("Won", suite["won"])):
        answers = "".join(_pair(by_id[id]["prompt"], by_id[id]["answers"]) for id in ids)
        if answers:
            changed += f"<details><summary>{title}: {len(ids)} prompts</summary>{answers}</details>"
    said = f"{suite['prompts']} prompts, temperature 0. Passed is the share that does what its prompt asks for."
    return _section(f"Suite: {name}", said, chart(rows) + table(figures) + changed)


def _forgetting(report: dict[str, Any]) -> str:
    plain = report["plain_text"]
    if not plain:
        return ""
    means = plain["means"]
    rise = means["tuned"]["loss"] - means["base"]["loss"]
    said = (
        f"The loss on a page of everyday English that nobody trains on ({plain['tokens']:,} tokens) "
        f"{'rose' if rise > 0 else 'fell'} by {abs(rise):.3f}. A clear rise means that the model forgets."
    )
    return _section("Forgetting", said, bars([("Plain text", {side: means[side]["loss"] for side in means})]))


def _learnt_by_heart(report: dict[str, Any]) -> str:
    found = report["memorised"]
    if found is None:  # it was not looked for
        return ""
    if not found:
        return _section("Training answers word for word", "None: no answer repeats 20 words of a training answer.", "")
    rows = "".join(
        f"<tr><td>{escape(each['where'])}</td><td>{each['row']:,}</td><td>{each['words']}</td>"
        f"<td>{escape(each['text'][:400])}</td></tr>"
        for each in found[:50]
    )
    head = "<tr><th>Answer</th><th>Row</th><th>Words</th><th>Text</th></tr>"
    said = f"{len(found)} answers repeat 20 words or more of a training answer that neither prompt nor reference has."
    return _section("Training answers word for word", said, f"<table>{head}{rows}</table>")


def _haiku(report: dict[str, Any]) -> str:
    for suite in report["suites"]:
        for row in suite["answers"]:
            if _HAIKU in row["prompt"].lower():
                return _section("Before and after", "", _pair(row["prompt"], row["answers"]))
    return ""


def _examples(report: dict[str, Any]) -> str:
    pairs = ""
    for entry in report["examples"]:
        answers = {
            side: {"output": entry[side]["output"], "passed": entry[side]["correct"]} for side in ("base", "tuned")
        }
        pairs += _pair(entry["prompt"][-1]["content"], answers, entry["reference"])
    return _section("Held-out answers", "The first rows, side by side.", pairs) if pairs else ""


def _classes(scores: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td>{_plain(scores['base'].get(key))}</td><td>{_plain(scores['tuned'].get(key))}</td></tr>"
        for name, key in (("Accuracy", "accuracy"), ("Macro-F1", "macro_f1"), ("Loss", "loss"))
    )
    what = escape(str(scores["base"].get("what", "base")))
    return _section("Held-out rows", "", f"<table><tr><th></th><th>Base: {what}</th><th>Tuned</th></tr>{rows}</table>")


def _plain(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "–"


def _recipe(run: Run) -> str:
    text = escape(run.recipe.to_yaml().strip())
    return f"<section><details><summary>Recipe</summary><pre>{text}</pre></details></section>"


def _section(title: str, said: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(said)}</p>{content}</section>"


def _pair(prompt: str, answers: dict[str, dict[str, Any]], reference: str | None = None) -> str:
    sides = "".join(
        f'<div class="{side}"><h3>{side.capitalize()}{_mark(answers[side].get("passed"))}</h3>'
        f"<pre>{escape(answers[side]['output'] or '') or '<i>nothing</i>'}</pre></div>"
        for side in ("base", "tuned")
        if side in answers
    )
    wanted = f'<div class="wanted"><h3>Wanted</h3><pre>{escape(reference)}</pre></div>' if reference is not None else ""
    return f'<div class="pair"><p class="prompt">{escape(prompt)}</p><div class="answers">{sides}</div>{wanted}</div>'


def _mark(passed: Any) -> str:
    return "" if passed is None else ' <span class="yes">✓</span>' if passed else ' <span class="no">✕</span>'


def table(figures: dict[str, Any]) -> str:
    """Each metric with its intervals and how often chance alone would do it."""
    lines = ""
    keys = [key for key in figures["means"]["base"] if figures["means"]["base"][key] is not None]
    for key in keys:
        cells = ""
        for side in ("base", "tuned"):
            around = figures["intervals"][side].get(key)
            ends = f" <small>{_number(key, around[0])} to {_number(key, around[1])}</small>" if around else ""
            cells += f"<td>{_number(key, figures['means'][side].get(key))}{ends}</td>"
        p = figures["p_values"].get(key)
        chance = "" if p is None else "under 0.001" if p < 0.001 else f"{p:.3f}"
        rows = figures["counts"].get(key, "")
        about = escape(METRICS[key].about) if key in METRICS else ""
        lines += f'<tr><td title="{about}">{escape(_title(key))}</td>{cells}<td>{chance}</td><td>{rows}</td></tr>'
    head = "<tr><th>Metric</th><th>Base</th><th>Tuned</th><th>Chance</th><th>Rows</th></tr>"
    return f"<table>{head}{lines}</table>" if lines else ""


def _ends(figures: dict[str, Any], key: str) -> dict[str, tuple[float, list[float] | None]]:
    return {side: (figures["means"][side][key], figures["intervals"][side].get(key)) for side in ("base", "tuned")}


def _is_share(key: str) -> bool:
    return key == "passed" or (METRICS[key].share if key in METRICS else key not in _TITLES)


def _title(key: str) -> str:
    metric: Metric | None = METRICS.get(key)
    return _TITLES.get(key) or (metric.title if metric else key)


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if _is_share(key):
        return f"{value:.1%}"
    return f"{value:,.2f}" if abs(value) >= 10 else f"{value:.3f}"
