"""A run against its base on the held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studio.errors import StudioError
from studio.evaluation.classes import evaluate_classifier
from studio.evaluation.figures import answer_figures, loss_figures
from studio.evaluation.files import write_json
from studio.evaluation.metrics import METRICS, Metric, exact_match
from studio.inference import Engine, Handle, Sampling, Target, generate_batch
from studio.jobs.progress import Report, quiet
from studio.models.processor import computing
from studio.runs import Run

MAX_NEW_TOKENS = 512
_MOST_SEEN = 200  # training rows that are measured for the gap


def evaluate(run: Run, engine: Engine, progress: Report = quiet, own: Sequence[Metric] = ()) -> dict[str, Any]:
    """Score the base and the tuned model of a run on the rows that were kept from training. A classifier is scored as
    :func:`studio.evaluation.classes.evaluate_classifier` says.

    The loss is the mean negative log-likelihood over all labelled tokens, with the labels of training; all other
    metrics (``studio.evaluation.metrics``) are of each row's last answer, written greedily from the conversation before
    it, beside the reference. A row that the encoder drops is skipped; one that does not end with an answer is scored by
    its loss alone. The answers of every row go into ``evaluation.json`` in the run's folder.

    Args:
        progress: called with (what, rows done, rows in total).
        own: metrics of a person's own, beside the built-in ones.

    Returns:
        ``{"rows", "skipped", "answered", "tokens", "base": {"loss", "perplexity", "exact_match", ...}, "tuned": {the
        same}, "intervals": {"base": {"loss": [low, high], ...}, "tuned": ...}, "p_values": {"loss": p, ...}, "counts":
        {"exact_match": rows, ...}, "computed": {"base": {"dtype", "attention", "threads", ...}, "tuned": {the same}},
        "seen": {"rows", "base", "tuned"}}``: rows scored, rows skipped, rows with an answer
        to compare, labelled tokens; each metric's mean, its 95 % bootstrap interval and the paired test; the loss on as
        many rows that were trained on. ``exact_match`` is None where there is no answer, ``perplexity`` None where it
        is beyond a float.

    Raises:
        StudioError: there are no held-out rows or none can be scored, the run has no model, or memory ran out.
    """
    recipe = run.recipe
    if recipe.model.task == "seq_cls":
        return evaluate_classifier(run, engine.device, progress)
    tuned = engine.open(Target.run(run.id), progress)

    from studio.data import load_evaluation
    from studio.data.encode import encode_batch, one_per_reply

    progress("Reading the data", 0, 0)
    held_out = [
        row for whole in load_evaluation(recipe.data, recipe.train.seed) for row in one_per_reply(whole, recipe.data)
    ]
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
    progress("Computing confidence intervals", 0, 0)
    result = {
        "rows": len(rows),
        "skipped": len(held_out) - len(rows),
        "answered": len(asked),
        "tokens": sum(loss.tokens for loss in scored["tuned"]["losses"]),
        **_figures(scored, [_reference(rows[i]) for i in asked], asked, [*METRICS.values(), *own]),
        "computed": {name: computing(handle.weights.model) for name, handle in (("base", base), ("tuned", tuned))},
        "seen": _seen(run, {"base": base, "tuned": tuned}, len(rows), progress),
    }
    write_json(run.folder / "evaluation.json", {**result, "details": _details(rows, scored)})
    return result


def _score(name: str, handle: Handle, rows, encoded, asked, sampling: Sampling, progress: Report) -> dict[str, Any]:
    from studio.evaluation.row_loss import row_losses

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
    from studio.evaluation.row_loss import foretold_answer
    from studio.inference.generate import decode, prompt_ids, steered

    if steered(handle.weights.model):
        return {}
    outputs = {}
    for i in asked:
        answer = foretold_answer(encoded[i], prompt_ids(handle, rows[i]["messages"][:-1]), losses[i], handle.stop_ids)
        if answer is not None and len(answer) < sampling.max_new_tokens:
            outputs[i] = decode(handle, answer)
    return outputs


def _figures(scored: dict[str, Any], references: list[str], asked: list[int], metrics: list[Metric]) -> dict[str, Any]:
    """The figures of both models, those of the loss first."""
    tokens = [loss.tokens for loss in scored["tuned"]["losses"]]
    losses = loss_figures({name: [row.total for row in each["losses"]] for name, each in scored.items()}, tokens)
    answers = {name: [each["outputs"][i] for i in asked] for name, each in scored.items()}
    found = answer_figures(answers, references, metrics)
    means = {name: losses["means"][name] | {"exact_match": None} | found["means"][name] for name in scored}
    intervals = {name: losses["intervals"][name] | found["intervals"][name] for name in scored}
    p_values = losses["p_values"] | found["p_values"]
    return {**means, "intervals": intervals, "p_values": p_values, "counts": found["counts"]}


def _seen(run: Run, handles: dict[str, Handle], rows: int, progress: Report) -> dict[str, Any]:
    """The loss on rows that were trained on, drawn by the run's seed: far below the held-out one, they are learnt by
    heart."""
    from studio.data import load_conversations, split_conversations
    from studio.data.encode import encode_batch, one_per_reply
    from studio.evaluation.row_loss import row_losses

    recipe = run.recipe
    training, _ = split_conversations(load_conversations(recipe.data), recipe.data, recipe.train.seed)
    count = min(len(training), rows, _MOST_SEEN)
    chosen = list(training.shuffle(seed=recipe.train.seed).select(range(count)))
    chosen = [row for whole in chosen for row in one_per_reply(whole, recipe.data)]
    encoded = encode_batch(handles["tuned"].tokenizer, chosen, recipe.data)
    kept = [each for each in encoded if not isinstance(each, StudioError) and not each.dropped]
    found: dict[str, Any] = {"rows": len(kept)}
    for name, handle in handles.items():
        what = f"Measuring the {name} model on rows that were trained on"
        losses = row_losses(handle, kept, lambda done, what=what: progress(what, done, len(kept)))
        tokens = sum(loss.tokens for loss in losses)
        found[name] = sum(loss.total for loss in losses) / tokens if tokens else None
    return found


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
