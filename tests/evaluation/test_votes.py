"""Votes of blind judging: whole lines, whatever happens, and what they say."""

from __future__ import annotations

import json

import pytest

from studio.errors import StudioError
from studio.evaluation import votes
from studio.evaluation.votes import Vote


def made(left: str, right: str, chosen: str, tags=()) -> Vote:
    targets = tuple(sorted((left, right)))
    return Vote("What?", tuple(tags), targets, (left, right), chosen, (votes.fingerprint("a"), votes.fingerprint("b")))


def test_a_vote_is_one_line_with_everything_that_was_judged(tmp_path):
    path = tmp_path / "votes.jsonl"
    vote = made("two", "one", "A", ["code"])
    votes.append(path, vote)
    (line,) = path.read_text().splitlines()
    assert set(json.loads(line)) == {"time", "prompt", "tags", "targets", "sides", "vote", "answers"}
    assert votes.read(path) == [vote]


def test_a_line_that_a_kill_has_torn_is_left_out_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "votes.jsonl"
    votes.append(path, made("one", "two", "A"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    votes.append(path, made("one", "two", "B"))
    assert [vote.vote for vote in votes.read(path)] == ["A", "B"]


def test_lines_that_are_no_votes_are_left_out(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('[]\n{"vote": "A"}\n"x"\n\x00\n')
    votes.append(path, made("one", "two", "tie"))
    assert len(votes.read(path)) == 1


def test_a_vote_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(StudioError, match="cannot be written"):
        votes.append(tmp_path / "absent" / "votes.jsonl", made("one", "two", "A"))


def test_sides_do_not_matter_for_who_has_won():
    one, two = votes.standings([made("one", "two", "A"), made("two", "one", "B"), made("two", "one", "tie")])
    assert (one.name, one.wins, one.ties, one.losses) == ("one", 2, 1, 0)
    assert (two.wins, two.ties, two.losses) == (0, 1, 2)
    assert one.win_rate == pytest.approx(2.5 / 3)
    assert one.low <= one.score <= one.high
    assert one.score + two.score == pytest.approx(2000)


def test_both_bad_tells_nobody_apart():
    one, two = votes.standings([made("one", "two", "bad")] * 3)
    assert one.score == pytest.approx(two.score) == pytest.approx(1000)
    assert one.bad == two.bad == 3


def test_a_tag_has_standings_of_its_own():
    cast = [made("one", "two", "A", ["code"]), made("one", "two", "B", ["chat", "code"]), made("one", "two", "B")]
    assert votes.tags(cast) == ["code", "chat"]
    assert [s.name for s in votes.standings(cast, "chat")] == ["two", "one"]
    assert sum(s.votes for s in votes.standings(cast, "code")) == 4
    assert votes.standings(cast, "absent") == []
