"""Metrics as plain functions of an answer and its reference: a number, or None where a metric says nothing about a row.
Rates are 1 or 0, so that their mean is a share."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from studio.evaluation.expressions import check_expression, is_found
from studio.evaluation.final_answer import boxed
from studio.evaluation.normalize import normalized

Score = Callable[[str, str], float | None]
_FENCE = re.compile(r"```[ \t]*+([\w+-]*+)[^\n]*+\n(.*?)(?:```|\Z)", re.DOTALL)
_WORDS = re.compile(r"\w+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LOOP_TIMES, _LOOP_CHARACTERS, _LOOP_PERIOD = 3, 24, 400
_REFUSALS = re.compile(
    r"\b(?:i(?:'m| am) (?:very |really |so )?sorry,? but"
    r"|(?:i(?:'m| am) (?:not able|unable)|i (?:can(?:no|')t|could not|won't)(?: be able)?)(?: to)? "
    r"(?:help|assist|do|provide|answer|comply|fulfil|create|write|discuss|support|share|give)"
    r"|as an ai(?: language)? model,? i (?:can(?:no|')t|do not|don't)|i must (?:decline|refuse))",
    re.IGNORECASE,
)
_LONGEST_INTEGER = 4000  # digits
_LONGEST_CODE = 100_000  # characters


@dataclass(frozen=True)
class Metric:
    """One way to score an answer.

    Attributes:
        better: ``high``, ``low``, or empty where neither end is good by itself.
        about: what it says, in a sentence.
        share: whether it is a rate from 0 to 1, shown in per cent.
    """

    key: str
    title: str
    about: str
    score: Score
    better: str = "high"
    share: bool = True


def exact_match(output: str, reference: str) -> bool:
    """Whether an answer is the reference to the letter, blanks at both ends aside."""
    return output.strip() == reference.strip()


def normalized_match(output: str, reference: str) -> bool:
    r"""Whether the answer, or what stands in its last ``\boxed{...}``, is the reference after
    :func:`studio.evaluation.normalize.normalized`."""
    if normalized(output) == normalized(reference):
        return True
    answer, wanted = boxed(output), boxed(reference)
    return answer is not None and normalized(answer) == normalized(reference if wanted is None else wanted)


def json_valid(output: str, reference: str) -> float | None:
    """Whether the answer is JSON, where the reference is an object or a list; a Markdown fence around it is allowed."""
    return None if _container(reference) is None else float(_parsed(output) is not _NOTHING)


def json_fields(output: str, reference: str) -> float | None:
    """The share of the reference's values (by their path) that the answer has, where the reference is JSON."""
    wanted = _container(reference)
    if wanted is None:
        return None
    found, leaves = _leaves(_parsed(output)), _leaves(wanted)
    if not leaves:
        return float(_parsed(output) == wanted)
    return sum(path in found and _alike(found[path], value) for path, value in leaves.items()) / len(leaves)


_NOTHING = object()


def _parsed(text: str) -> Any:
    fenced = _FENCE.search(text)
    try:
        return json.loads((fenced[2] if fenced else text).strip(), parse_constant=_no_constant, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return _NOTHING


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole_number(digits: str) -> Any:
    """An integer; beyond what Python reads as one it is an exact decimal."""
    return int(digits) if len(digits) < _LONGEST_INTEGER else Decimal(digits)


def _container(reference: str) -> Any:
    found = _parsed(reference)
    return found if isinstance(found, dict | list) else None


def _leaves(value: Any) -> dict[tuple, Any]:
    """The values of nested objects and lists by their path; an empty one inside is a value."""
    found: dict[tuple, Any] = {}
    waiting = [((), value)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, dict | list) and part:
            named = part.items() if isinstance(part, dict) else enumerate(part)
            waiting += [((*path, name), inner) for name, inner in named]
        elif path and part is not _NOTHING:
            found[path] = part
    return found


def _alike(found: Any, wanted: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def rouge_l(output: str, reference: str) -> float | None:
    """ROUGE-L's F1 (https://aclanthology.org/W04-1013) by the package rouge-score. It knows the letters a to z alone;
    references without any are cut at Unicode's word bounds."""
    return _rouge(bool(re.search("[a-z0-9]", reference.lower()))).score(reference, output)["rougeL"].fmeasure


@lru_cache(maxsize=2)
def _rouge(latin: bool) -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=None if latin else _UnicodeWords())


class _UnicodeWords:
    """:func:`unicode_words` for rouge-score; of a text of signs alone, each sign."""

    def tokenize(self, text: str) -> list[str]:
        return unicode_words(text) or list("".join(text.split()))


def unicode_words(text: str) -> list[str]:
    """Words of any script in lower case; of scripts that write without blanks (Chinese, Thai), every character."""
    found = _WORDS.findall(text.casefold())
    return [part for word in found for part in (word if _UNSPACED.search(word) else [word])]


def bleu(output: str, reference: str) -> float:
    """Sentence BLEU by sacrebleu, with its defaults, from 0 to 100."""
    from sacrebleu import sentence_bleu

    return sentence_bleu(output, [reference]).score


def chrf(output: str, reference: str) -> float:
    """chrF by sacrebleu, with its defaults, from 0 to 100 (https://aclanthology.org/W15-3049)."""
    from sacrebleu import sentence_chrf

    return sentence_chrf(output, [reference]).score


def python_valid(output: str, reference: str) -> float | None:
    """Whether the answer's code is Python, where the reference has Python code: in fences, or throughout."""
    return None if not _is_code(reference) else float(_is_python(output))


def _is_code(text: str) -> bool:
    fences = _FENCE.findall(text)
    if fences:
        return any(language.lower() in ("python", "py") for language, _ in fences)
    tree = _tree(text)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.For, ast.While, ast.Return)
    return tree is not None and any(isinstance(node, kinds) for node in ast.walk(tree))


def _is_python(text: str) -> bool:
    return code_of(text) is not None


def code_of(text: str) -> ast.Module | None:
    """The Python code of an answer, that in its fences or all of it; None where it does not parse or there is none."""
    fences = [code for language, code in _FENCE.findall(text) if language.lower() in ("python", "py", "")]
    return _tree("\n".join(fences) or text) if text.strip() else None


def _tree(text: str) -> ast.Module | None:
    import warnings

    if len(text) > _LONGEST_CODE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in a string
            return ast.parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: brackets nested too deep
        return None


def length_ratio(output: str, reference: str) -> float | None:
    """How long an answer is beside its reference, in words."""
    wanted = len(_WORDS.findall(reference))
    return len(_WORDS.findall(output)) / wanted if wanted else None


def distinct(output: str, reference: str, n: int = 2) -> float | None:
    """The share of an answer's n-grams of words that are different from each other (distinct-n,
    https://aclanthology.org/N16-1014)."""
    found = _WORDS.findall(output.casefold())
    grams = [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def loops(output: str, reference: str) -> float:
    """Whether an answer ends in a loop: the same piece at least three times in a row, 24 characters or more."""
    text = output.rstrip()
    for period in range(1, min(_LOOP_PERIOD, len(text) // _LOOP_TIMES) + 1):
        times = max(_LOOP_TIMES, math.ceil(_LOOP_CHARACTERS / period))
        if len(text) >= period * times and text[-period * times :] == text[-period:] * times:
            return float(any(c.isalnum() for c in text[-period:]))
    return 0.0


def refuses(output: str, reference: str) -> float:
    """Whether an answer begins with a refusal, in the usual English words, where the reference does not."""
    return float(refusal(output) and not refusal(reference))


def refusal(text: str) -> bool:
    """Whether a text begins by declining, in the usual English words."""
    return bool(_REFUSALS.search(text[:300].replace("’", "'")))


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("exact_match", "Exact match", "The reference to the letter.", lambda o, r: float(exact_match(o, r))),
        Metric(
            "normalized_match",
            "Normalised match",
            "The reference in another spelling: case, punctuation, articles.",
            lambda o, r: float(normalized_match(o, r)),
        ),
        Metric("json_valid", "Valid JSON", "Answers that are JSON, where the reference is.", json_valid),
        Metric("json_fields", "JSON fields", "The reference's values that the answer has.", json_fields),
        Metric("python_valid", "Valid Python", "Code that parses, where the reference has code.", python_valid),
        Metric("rouge_l", "ROUGE-L", "The longest common sequence of words.", rouge_l),
        Metric("bleu", "BLEU", "Common runs of up to four words.", bleu, share=False),
        Metric("chrf", "chrF", "Common runs of up to six characters.", chrf, share=False),
        Metric("length_ratio", "Length", "Words, beside the reference's.", length_ratio, better="", share=False),
        Metric("distinct_2", "Distinct pairs", "Pairs of words that come once.", distinct, better=""),
        Metric("loops", "Loops", "Answers that end in the same piece over and over.", loops, better="low"),
        Metric("refuses", "Refusals", "Answers that decline although the reference does not.", refuses, better="low"),
    )
}


def custom(name: str, pattern: str) -> Metric:
    """A metric of a person's own: whether an answer matches a regular expression.

    Args:
        pattern: searched for with ``^`` and ``$`` at lines; ``{reference}`` in it stands for the reference's text.

    Raises:
        StudioError: it is no regular expression, or takes longer than a second on an answer.
    """
    check_expression(pattern.replace("{reference}", "x"), f"The metric {name}")

    def score(output: str, reference: str) -> float:
        whole = pattern.replace("{reference}", re.escape(reference.strip()))
        return float(is_found(whole, output, f"The metric {name}"))

    return Metric(name, name, f"Answers that match {pattern}", score)


def perplexity(loss: float) -> float:
    """exp of the mean negative log-likelihood per token (in nats); infinite where a float cannot hold it."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def mean(values: Iterable[float]) -> float | None:
    """The mean, or None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None
