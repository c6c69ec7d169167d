"""Blind judging: two of the models answer, nobody sees which is which until the vote, and the votes make a table."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.evaluation import votes
from studio.ui import markup, views
from studio.ui.compare import chat_html
from studio.ui.compare import chat_sessions as conversation
from studio.ui.compare import stream_answers as talking
from studio.ui.context import AppContext
from studio.ui.runs.names import model_name
from studio.workspace import Workspace

_ROUNDS = 500
BUTTONS = {"A": ("A is better", "A"), "B": ("B is better", "B"), "tie": ("Equally good", "T"), "bad": ("Both bad", "X")}


@dataclass(frozen=True)
class Round:
    """One blind comparison of a browser. It stays in the studio until the vote, so that the page cannot tell.

    Attributes:
        key: what the page calls it.
        targets: the models on the left (A) and on the right (B).
        panes: both conversations with their times, once both have answered.
        vote: what was chosen, once it was.
    """

    key: str
    targets: tuple[Any, Any]
    prompt: str
    tags: tuple[str, ...]
    panes: conversation.Panes | None = None
    vote: str = ""

    @property
    def sides(self) -> tuple[str, str]:
        """The models' whole names, left and right."""
        left, right = (whole_name(target) for target in self.targets)
        return left, right

    @property
    def heads(self) -> list[chat_html.Head]:
        """Letters until the vote, names after it."""
        if self.vote:
            return [replace(head, label=f"{letter} · {head.label}") for letter, head in self._named()]
        return [chat_html.Head(f"Model {letter}", "blind") for letter in "AB"]

    def _named(self) -> list[tuple[str, chat_html.Head]]:
        return list(zip("AB", chat_html.heads(list(self.sides)), strict=True))

    def veiled(self, panes: conversation.Panes) -> conversation.Panes:
        """Conversations as the page may have them: until the vote without times, which tell models apart."""
        hidden = () if self.vote else ("stats", "odds")
        return [[{k: v for k, v in turn.items() if k not in hidden} for turn in turns] for turns in panes]

    def bar(self) -> str:
        """The four buttons, or what was chosen."""
        if self.vote:
            told = BUTTONS[self.vote][0]
            return f'<div class="votes" role="status"><b>✓ {told}.</b> The next prompt begins a new round.</div>'
        off = "" if self.panes else " disabled"
        buttons = "".join(
            f'<button type="button" data-act="vote" data-vote="{vote}" data-round="{self.key}"{off}>{text} '
            f"<kbd>{key}</kbd></button>"
            for vote, (text, key) in BUTTONS.items()
        )
        return f'<div class="votes">{buttons}</div>'

    def draw(self, panes: conversation.Panes, view: str) -> str:
        """Both panes with the buttons under them."""
        return chat_html.draw(self.veiled(panes), self.heads, view, below=self.bar(), editable=False)


def whole_name(target: Any) -> str:
    """How a model is called in the votes: a bare ``base`` says which."""
    return f"base:{target.model.id}" if target.kind == "base" else target.name


def tag_list(text: str | None) -> tuple[str, ...]:
    """Tags with commas between, each once, in lower case."""
    return tuple(dict.fromkeys(tag.strip().lower()[:60] for tag in (text or "").split(",") if tag.strip()))


def ask(
    context: AppContext, session: str, question: talking.Question, tags: str | None, *, again: bool = False
) -> Iterator[list[Any]]:
    """A new round: two different models out of the panes, on random sides, answer the prompt (or the last one again).

    Yields:
        What :func:`studio.ui.compare.stream_answers.talk` yields.
    """
    nothing = [gr.skip()] * talking.COUNT
    last = context.rounds.get(session)
    if session in context.stops:  # answers are being written
        yield nothing
        return
    try:
        if again and last is None:
            raise StudioError("There is no answer to write again yet.", "Write a message first.")
        prompt = last.prompt if again and last else (question.prompt or "").strip()
        places, targets = _draw_lots(question)
    except StudioError as error:
        yield [gr.skip(), gr.skip(), views.problem(error), *nothing[3:]]
        return
    kept = Round(secrets.token_hex(4), targets, prompt, tag_list(tags))
    asked = replace(talking.of_places(question, places), prompt=prompt)
    _remember(context, session, kept)
    for panes, history, notice, box, *buttons in talking.talk(context, session, asked, blind_round=kept):
        if isinstance(history, str) and history != "[]":
            whole = json.loads(history)
            if all(turns[-1]["role"] == "assistant" for turns in whole):
                kept = replace(kept, panes=whole)
                _remember(context, session, kept)
                panes = kept.draw(whole, question.view)
            else:
                fix = "Send the prompt again; another pair may be drawn."
                notice = views.message("warn", "One of them could not answer, so there is nothing to judge.", fix)
            history = json.dumps(kept.veiled(whole))
        yield [panes, history, notice, gr.skip() if again else box, *buttons]


def _remember(context: AppContext, session: str, kept: Round) -> None:
    """Put a round in its place; the oldest ones of browsers that are long gone make room."""
    context.rounds[session] = kept
    while len(context.rounds) > _ROUNDS:
        del context.rounds[next(iter(context.rounds))]


def _draw_lots(question: talking.Question) -> tuple[list[int], tuple[Any, Any]]:
    """Two panes with different models, in random order, and these models.

    Raises:
        StudioError: there are not two different models.
    """
    targets = talking.parsed(question.names)
    names = [whole_name(target) for target in targets]
    pairs = [[a, b] for a in range(len(names)) for b in range(len(names)) if names[a] != names[b]]
    if not pairs:
        raise StudioError("There are no two different models to judge.", "Choose another model in one of the panes.")
    left, right = random.SystemRandom().choice(pairs)
    return [left, right], (targets[left], targets[right])


def vote(context: AppContext, session: str, key: str, chosen: str) -> Round:
    """Write a vote down and uncover the models. A second one on the same round changes nothing.

    Raises:
        StudioError: the round is over or not answered yet, or the vote cannot be written.
    """
    kept = context.rounds.get(session)
    if kept is None or kept.key != key or kept.panes is None or chosen not in votes.VOTES:
        raise StudioError("This round cannot be judged any more.", "Send the prompt again.")
    if kept.vote:
        return kept
    answers = tuple(votes.fingerprint(turns[-1]["content"]) for turns in kept.panes)
    targets = tuple(sorted(kept.sides))
    written = votes.Vote(kept.prompt, kept.tags, targets, kept.sides, chosen, answers)
    votes.append(Workspace.current().votes, written)
    done = replace(kept, vote=chosen)
    context.rounds[session] = done
    return done


def table() -> str:
    """Win rates and scores of all models, for all prompts and by tag."""
    try:
        whole = votes.read_votes(Workspace.current().votes)
    except StudioError as error:
        return views.problem(error)
    found, warning = whole.votes, _damaged(whole.damaged)
    if not found:
        return warning + views.empty("No votes yet", "Switch on Blind, send a prompt, and choose the better answer.")
    parts = [_section("All prompts", found, None)]
    parts += [_section(tag, found, tag) for tag in votes.tags(found)[:20]]
    note = (
        "Win rate: wins and half of the ties. Score: Bradley-Terry on the Elo scale, 1000 on average, with the 95 % "
        "interval of 1,000 bootstrap samples. Both bad counts as a tie. All votes are in votes.jsonl in the workspace."
    )
    return f'{warning}<div class="apart standings">{"".join(parts)}<p class="note">{note}</p></div>'


def _damaged(lines: dict[int, str]) -> str:
    """How many votes are left out because their line is damaged, and why for the first of them."""
    if not lines:
        return ""
    number, reason = next(iter(lines.items()))
    count = "1 damaged vote is" if len(lines) == 1 else f"{len(lines):,} damaged votes are"
    return views.message(
        "warn", f"{count} left out (line {number:,}: {reason}).", "The lines stand in votes.jsonl in the workspace."
    )


def _section(title: str, found: list[votes.Vote], tag: str | None) -> str:
    standings = votes.standings(found, tag)
    count = sum(tag is None or tag in vote.tags for vote in found)
    columns = ("Model", "Votes", "Won / tied / lost / both bad", "Win rate", "Score")
    rows = "".join(
        f'<tr><th title="{markup.escape(s.name)}">{markup.escape(model_name(s.name))}</th>'
        f"<td>{s.votes:,}</td><td>{s.wins} / {s.ties} / {s.losses} / {s.bad}</td>"
        f"<td>{s.win_rate:.0%}</td><td><b>{s.score:.0f}</b> {_interval(s, count)}</td></tr>"
        for s in standings
    )
    head = "".join(f"<th>{column}</th>" for column in columns)
    votes_word = "vote" if count == 1 else "votes"
    return (
        f"<h4>{markup.escape(title)} · {count:,} {votes_word}</h4>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _interval(standing: votes.Standing, count: int) -> str:
    """The interval in words; one vote tells nothing about how sure the score is."""
    return f"({standing.low:.0f} to {standing.high:.0f})" if count > 1 else "(one vote only)"
