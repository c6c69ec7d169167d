"""A run that puts texts into classes, against always saying the commonest class."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from studio.errors import StudioError
from studio.evaluation.files import write_json
from studio.jobs.progress import Report, quiet
from studio.models.processor import computing
from studio.runs import Run
from studio.thread_waiting import LoadWatch


def evaluate_classifier(run: Run, device: str = "cpu", progress: Report = quiet) -> dict[str, Any]:
    """Score a run's model on the rows that were kept from training, beside a baseline that reads nothing.

    The baseline, ``base``, gives every row the class (or the set of classes) that most training rows have: the base
    model has no head for these classes, so it says nothing by itself. Rows that the encoder drops, as those with a
    class that no training row has, are skipped. What the model says about each row goes into ``evaluation.json`` in the
    run's folder.

    Returns:
        ``{"rows", "skipped", "classes", "multi_label", "base": {"what", "accuracy", "macro_f1", "per_class",
        "confusion"}, "tuned": {the same, "loss"}, "computed": {"tuned": {"dtype", "attention", "threads", ...}}}``; see
        :mod:`studio.models.class_scores`.

    Raises:
        StudioError: there are no held-out rows or none can be scored, the run has no model, or its files are broken.
    """
    from studio.data import load_evaluation
    from studio.data.encode import encode_batch
    from studio.inference.classify import open_classifier
    from studio.models.class_scores import confusion, predicted, probabilities, scores
    from studio.models.classification import logits_of, mean_loss

    recipe = run.recipe
    opened = open_classifier(run, device, progress)
    classes, several = opened.classes, opened.classes.multi_label
    progress("Reading the data", 0, 0)
    held_out = list(load_evaluation(recipe.data, recipe.train.seed, "seq_cls"))
    encoded = encode_batch(opened.tokenizer, held_out, recipe.data, classes)
    kept = [(row, made) for row, made in zip(held_out, encoded, strict=True) if not made.dropped]
    if not kept:
        reason = next((made.dropped for made in encoded), "there are none")
        raise StudioError(
            f"None of the {len(held_out)} held-out rows can be scored: {reason}.",
            "Hold out other rows, and train again.",
            field="data.holdout",
        )
    wanted = [made.label for _, made in kept]
    with LoadWatch() if device == "cpu" else nullcontext():
        logits = logits_of(
            opened.model,
            [made.input_ids for _, made in kept],
            opened.tokenizer.pad_token_id,
            batch_size=recipe.train.per_device_eval_batch_size,
            progress=lambda done: progress("Asking the tuned model", done, len(kept)),
        )
    shares = probabilities(logits, several)
    answers = {
        "base": [classes.numbers(list(classes.commonest)) for _ in kept],
        "tuned": predicted(shares, several),
    }
    result = {"rows": len(kept), "skipped": len(held_out) - len(kept), "computed": {"tuned": computing(opened.model)}}
    result |= {"classes": list(classes.names), "multi_label": several}
    for name, given in answers.items():
        result[name] = {
            **scores(wanted, given, classes.names),
            "confusion": confusion(wanted, given, classes.names),
        }
    said = " and ".join(classes.commonest) or "no class"
    result["base"] = {"what": f"always {said}, the commonest of the training rows", **result["base"]}
    result["tuned"] = {"what": run.id, "loss": mean_loss(logits, wanted), **result["tuned"]}
    details = [
        {
            "row": row["row"],
            "text": row["text"],
            "label": row["label"],
            "predicted": classes.named(given),
            "probabilities": dict(zip(classes.names, share, strict=True)),
        }
        for (row, _), given, share in zip(kept, answers["tuned"], shares.round(6).tolist(), strict=True)
    ]
    write_json(run.folder / "evaluation.json", {**result, "details": details})
    return result
