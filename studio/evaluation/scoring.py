"""A run against its base on the held-out rows."""

from __future__ import annotations

import math
from typing import Any

from studio.errors import StudioError
from studio.evaluation.classes import evaluate_classifier
from studio.evaluation.files import write_json
from studio.evaluation.metrics import exact_match, mean, perplexity
from studio.inference import Engine, Handle, Sampling, Target, generate_batch
from studio.models.progress import Report, quiet
from studio.runs import Run

MAX_NEW_TOKENS = 512


def evaluate(run: Run, engine: Engine, progress: Report = quiet) -> dict[str, Any]:
    """Score the base and the tuned model of a run on the rows that were kept from training. A classifier is scored as
    :func:`studio.evaluation.classes.evaluate_classifier` says.

    The loss is the mean negative log-likelihood over all labelled tokens, with the labels of training. ``exact_match``
    is the share of rows whose last answer, written greedily from the conversation before it, is the reference to the
    letter (blanks at both ends aside). A row that the encoder drops is skipped; one that does not end with an answer is
    scored by its loss alone. The answers of every row go into ``evaluation.json`` in the run's folder.

    Args:
        progress: called with (what, rows done, rows in total).

    Returns:
        ``{"rows", "skipped", "answered", "tokens", "base": {"loss", "perplexity", "exact_match"}, "tuned": {the
        same}}``: rows scored, rows skipped, rows with an answer to compare, labelled tokens. ``exact_match`` is None
        where there is none, ``perplexity`` None where it is beyond a float.

    Raises:
        StudioError: there are no held-out rows or none can be scored, the run has no model, or memory ran out.
    """
    recipe = run.recipe
    if recipe.model.task == "seq_cls":
        return evaluate_classifier(run, engine.device, progress)
    tuned = engine.open(Target.run(run.id), progress)

    from studio.data import load_evaluation
    from studio.data.encode import encode_batch

    progress("Reading the data", 0, 0)
    held_out = list(load_evaluation(recipe.data, recipe.train.seed))
    pairs = list(zip(held_out, encode_batch(tuned.tokenizer, held_out, recipe.data), strict=True))
    kept = [(row, encoded) for row, encoded in pairs if not isinstance(encoded, StudioError) and not encoded.dropped]
    if not kept:
        reasons = (e.what if isinstance(e, StudioError) else e.dropped for _, e in pairs)
        reason = next(reasons, "there are none").rstrip(".")
        raise StudioError(
            f"None of the {len(pairs)} held-out rows can be scored: {reason}.",
            "Raise data.max_length or data.holdout, and train again.",
            field="data.holdout",
        )
    rows, encoded = [row for row, _ in kept], [e for _, e in kept]
    asked = [i for i, row in enumerate(rows) if _has_answer(row)]
    sampling = Sampling(temperature=0, max_new_tokens=_longest_answer(tuned, [_reference(rows[i]) for i in asked]))

    base = engine.open(Target.base_of(run), progress)
    scored = {
        name: _score(name, handle, rows, encoded, asked, sampling, progress)
        for name, handle in (("base", base), ("tuned", tuned))
    }
    result = {
        "rows": len(rows),
        "skipped": len(held_out) - len(rows),
        "answered": len(asked),
        "tokens": sum(loss.tokens for loss in scored["tuned"]["losses"]),
        **{name: _summary(scores) for name, scores in scored.items()},
    }
    write_json(run.folder / "evaluation.json", {**result, "details": _details(rows, scored)})
    return result


def _score(name: str, handle: Handle, rows, encoded, asked, sampling: Sampling, progress: Report) -> dict[str, Any]:
    from studio.evaluation.loss import row_losses

    measuring, answering = f"Measuring the loss of the {name} model", f"Letting the {name} model answer"
    progress(measuring, 0, len(rows))
    losses = row_losses(handle, encoded, lambda done: progress(measuring, done, len(rows)))

    outputs = _foretold(handle, rows, encoded, losses, asked, sampling)
    waiting, known = [i for i in asked if i not in outputs], len(outputs)
    progress(answering, known, len(asked))
    conversations = [rows[i]["messages"][:-1] for i in waiting]
    answers = generate_batch(
        handle, conversations, sampling, lambda done, total: progress(answering, known + done, known + total)
    )
    outputs |= zip(waiting, answers, strict=True)
    correct = {i: exact_match(output, _reference(rows[i])) for i, output in outputs.items()}
    return {"losses": losses, "outputs": outputs, "correct": correct}


def _foretold(handle: Handle, rows, encoded, losses, asked: list[int], sampling: Sampling) -> dict[int, str]:
    """Answers that measuring the loss has already shown, by row: after good training most of them."""
    from studio.evaluation.loss import foretold_answer
    from studio.inference.generate import decode, prompt_ids, steered

    if steered(handle.weights.model):
        return {}
    outputs = {}
    for i in asked:
        answer = foretold_answer(encoded[i], prompt_ids(handle, rows[i]["messages"][:-1]), losses[i], handle.stop_ids)
        if answer is not None and len(answer) < sampling.max_new_tokens:
            outputs[i] = decode(handle, answer)
    return outputs


def _summary(scores: dict[str, Any]) -> dict[str, Any]:
    loss = sum(row.total for row in scores["losses"]) / sum(row.tokens for row in scores["losses"])
    exponential = perplexity(loss)
    return {
        "loss": loss,
        "perplexity": exponential if math.isfinite(exponential) else None,
        "exact_match": mean(scores["correct"].values()),
    }


def _details(rows: list[dict], scored: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a row: its number in the source, prompt, reference, and what each model made of it."""
    entries = []
    for i, row in enumerate(rows):
        entry = {"row": row["row"], "prompt": None, "reference": None}
        if i in scored["tuned"]["outputs"]:
            entry |= {"prompt": row["messages"][:-1], "reference": _reference(row)}
        for name, scores in scored.items():
            loss = scores["losses"][i]
            entry[name] = {
                "loss": loss.total / loss.tokens,
                "output": scores["outputs"].get(i),
                "correct": scores["correct"].get(i),
            }
        entries.append(entry)
    return entries


def _has_answer(row: dict) -> bool:
    """Whether a row ends with a text to compare an answer with; where tools are called there is none."""
    messages = row.get("messages") or []
    calls = row.get("tools") or any(message.get("tool_calls") for message in messages)
    return len(messages) > 1 and messages[-1]["role"] == "assistant" and not calls


def _reference(row: dict) -> str:
    return row["messages"][-1]["content"] or ""


def _longest_answer(handle: Handle, references: list[str]) -> int:
    """Tokens that answers may have: half as much again as the longest reference, and 16, and at most 512."""
    longest = max((len(handle.tokenizer(r, add_special_tokens=False)["input_ids"]) for r in references), default=0)
    return min(MAX_NEW_TOKENS, int(1.5 * longest) + 16)
