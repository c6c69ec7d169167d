"""What can be said about one row by itself: the part of the report that several processes can work on at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy

from studio.data.conversations import Conversation
from studio.data.duplicates import comparable, signature
from studio.data.encode import IGNORE, Encoded
from studio.data.split import content_hash
from studio.errors import StudioError

EXCERPT = 160  # characters
_LONG_ANSWER = 200  # characters; a shorter answer may well be a phrase
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}|\bhf_[A-Za-z0-9]{30,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
)
_SIGNS = ("PRIVATE KEY", "AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "sk-", "xox")  # no secret without one
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b")


@dataclass(frozen=True)
class Inspection:
    """One row in numbers and digests; its text is not kept.

    Attributes:
        row, where, copies, held_out: as of its conversation.
        findings: kind of finding -> reason or excerpt.
        length: tokens of its whole example (the longest one), also if too little of it is left to train on.
        refusal: the code of the encoder's refusal, if there is one.
        tokens, trained: of its examples within max_length, 0 if it is left out.
        examples: of each of its examples the tokens, whole and within max_length; the latter are 0 if it is left out.
            With ``data.split_turns`` a row has one for each reply.
        messages: how many messages the conversation has, 0 for plain text.
        classes: the classes of a text, where texts are put into classes.
        excerpt: how the row begins.
        whole, prompt, answer: digests of what is said, case and blanks aside; None where there is no such thing.
        hash, signature: what the split goes by: the content hash, and the MinHash for near duplicates; None for a row
            that is dropped before it is split.
    """

    row: int
    where: str = ""
    copies: int = 1
    held_out: bool = False
    findings: dict[str, str] = field(default_factory=dict)
    length: int = 0
    tokens: int = 0
    trained: int = 0
    examples: tuple[tuple[int, int], ...] = ()
    refusal: str = ""
    messages: int = 0
    classes: tuple[str, ...] = ()
    excerpt: str = ""
    whole: bytes = b""
    prompt: bytes | None = None
    answer: bytes | None = None
    hash: int | None = None
    signature: numpy.ndarray | None = None

    @property
    def kept(self) -> bool:
        """Whether the row is trained on or held out."""
        return self.tokens > 0


def inspect_row(
    conversation: Conversation, made: Encoded | StudioError | Sequence[Encoded | StudioError] | None, seed: int
) -> Inspection:
    """Return what there is to say about a row.

    Args:
        made: its example or examples, or the encoder's refusal; None for a row that is dropped before.
    """
    known = {
        "row": conversation.row,
        "where": conversation.where,
        "copies": conversation.copies,
        "held_out": conversation.held_out,
    }
    if conversation.dropped:
        kind = "unwanted" if conversation.unwanted else "dropped"
        return Inspection(**known, findings={kind: conversation.dropped})
    content = conversation.content()
    known |= {"hash": content_hash(content, seed), "signature": signature(comparable(content))}
    assert made, "a row that is not dropped has been encoded"
    every = [made] if isinstance(made, (Encoded, StudioError)) else list(made)
    refused = next((one for one in every if isinstance(one, StudioError)), None)
    findings = {"refused": refused.what} if refused else {}
    known["refusal"] = refused.code if refused else ""
    examples = [one for one in every if isinstance(one, Encoded)]
    if not examples:
        return Inspection(**known, findings=findings)
    sizes = [(len(one.input_ids) + one.cut, 0 if one.dropped else len(one.input_ids)) for one in examples]
    known |= {"length": max(whole for whole, _ in sizes), "examples": tuple(sizes)}
    for flag in (flag for one in examples for flag in one.flags):
        where = "" if flag.message is None else f"message {flag.message + 1}"
        findings.setdefault(flag.code, f"{where}: {flag.detail}".strip(": ") or "the whole row")
    used = [one for one in examples if not one.dropped]
    if not used:
        return Inspection(**known, findings=findings | {"masked": examples[0].dropped or ""})
    cut = max(used, key=lambda one: one.cut)
    said = list(texts(conversation))
    text, plain = "\n".join(said), [_plain(part) for part in said]
    extra = [str(part) for part in (conversation.tools, conversation.labels) if part]
    extra += [] if conversation.label is None else [str(conversation.label)]
    if cut.cut:
        findings["too_long"] = f"{len(cut.input_ids) + cut.cut:,} tokens: {text[:EXCERPT]}"
    if match := _SECRETS.search(text) if any(sign in text for sign in _SIGNS) else None:
        findings["secret"] = _masked(match.group())
    if match := _EMAIL.search(text) if "@" in text else None:
        findings["email"] = match.group()
    prompt = answer = None
    if conversation.messages:
        if reason := _disorder([m["role"] for m in conversation.messages]):
            findings["roles"] = reason
        last = conversation.messages[-1]["content"].rstrip()
        if len(last) > _LONG_ANSWER and _breaks_off(last):
            findings["cut_answer"] = "… " + last[-100:]
        prompt, answer = _digest([*plain[:-1], *extra]), _digest(plain[-1:])
    elif conversation.label is not None:
        prompt, answer = _digest(plain), _digest(extra)
    return Inspection(
        **known,
        findings=findings,
        tokens=sum(len(one.input_ids) for one in used),
        trained=sum(len(one.labels) - one.labels.count(IGNORE) for one in used),
        messages=len(conversation.messages or ()),
        classes=(conversation.label,) if isinstance(conversation.label, str) else tuple(conversation.label or ()),
        excerpt=text[:EXCERPT],
        whole=_digest([*plain, *extra]),
        prompt=prompt,
        answer=answer,
    )


def texts(conversation: Conversation) -> Iterator[str]:
    """What is said in a row, message by message."""
    if conversation.messages is None:
        yield conversation.text or " ".join(map(str, conversation.input_ids or []))
        return
    for message in conversation.messages:
        more = [str(message[key]) for key in ("reasoning_content", "tool_calls") if message.get(key)]
        yield " ".join([*more[:1], message["content"], *more[1:]]) if more else message["content"]


def _plain(text: str) -> str:
    """Text without what makes no difference to a reader: case and blanks."""
    return " ".join(text.casefold().split())


def _digest(plain: list[str]) -> bytes:
    return hashlib.blake2b(" ".join(plain).encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _breaks_off(answer: str) -> bool:
    """Whether a text ends with a letter or a comma in a line of several words; lists, numbers and code do not."""
    line = answer.rsplit("\n", 1)[-1]
    return (line[-1:].isalpha() or line.endswith(",")) and len(line.split()) > 5


def _masked(secret: str) -> str:
    return secret[:6] + "…" if len(secret) > 6 else "…"


def _disorder(roles: list[str]) -> str | None:
    """What is wrong with the order of the roles, or None."""
    if "system" in roles[1:]:
        return f"a system message as message {roles.index('system', 1) + 1}"
    turns = roles[1:] if roles[0] == "system" else roles
    if turns and turns[0] != "user":
        return f"it begins with the {turns[0]}"
    for number, (one, other) in enumerate(pairwise(turns), len(roles) - len(turns) + 2):
        if one == other and one in ("user", "assistant"):
            return f"two messages of the {one} in a row (message {number})"
    if turns[-1] != "assistant":
        return f"it ends with the {turns[-1]}"
    return None
