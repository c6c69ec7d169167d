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


DAMAGE = {
    "not-json": lambda told: b"{broken",
    "not-utf8": lambda told: b"\xff\xfe",
    "no-object": lambda told: b"[]",
    "nested": lambda told: b'{"vote": ' + b"[" * 100_000,
    "nested-whole": lambda told: json.dumps(told | {"time": None}).replace("null", "[" * 400 + "]" * 400).encode(),
    "vote-list": lambda told: told | {"vote": []},
    "vote-unknown": lambda told: told | {"vote": "C"},
    "time-huge": lambda told: told | {"time": 10**400},
    "time-text": lambda told: told | {"time": "now"},
    "time-nan": lambda told: told | {"time": float("nan")},
    "time-true": lambda told: told | {"time": True},
    "digits": lambda told: json.dumps(told | {"time": None}).replace("null", "1" * 9999).encode(),
    "sides-nested": lambda told: told | {"sides": [["x"], "y"]},
    "sides-equal": lambda told: told | {"sides": ["one", "one"], "targets": ["one", "one"]},
    "sides-three": lambda told: told | {"sides": ["one", "two", "three"]},
    "sides-text": lambda told: told | {"sides": "xy"},
    "sides-empty": lambda told: told | {"sides": ["", "two"], "targets": ["", "two"]},
    "targets-other": lambda told: told | {"targets": ["three", "four"]},
    "tags-text": lambda told: told | {"tags": "code"},
    "tags-mixed": lambda told: told | {"tags": [1, {}]},
    "prompt-object": lambda told: told | {"prompt": {}},
    "half-a-character": lambda told: told | {"tags": ["\ud800"]},
    "missing": lambda told: {name: value for name, value in told.items() if name != "answers"},
    "long": lambda told: told | {"prompt": "x" * 2_000_000},
}


def damaged_file(path, name):
    """A good vote, a damaged one, another good one."""
    votes.append(path, made("one", "two", "A"))
    spoilt = DAMAGE[name](json.loads(path.read_bytes()))
    with path.open("ab") as file:
        file.write((spoilt if isinstance(spoilt, bytes) else json.dumps(spoilt).encode()) + b"\n")
    votes.append(path, made("one", "two", "B"))


@pytest.mark.parametrize("name", DAMAGE)
def test_results_09_a_damaged_vote_is_left_out_counted_and_explained(tmp_path, name):
    path = tmp_path / "votes.jsonl"
    damaged_file(path, name)
    found = votes.read_votes(path)
    assert [vote.vote for vote in found.votes] == ["A", "B"]
    assert list(found.damaged) == [2]
    assert 0 < len(found.damaged[2]) < 300
    assert len(votes.standings(found.votes)) == 2


def test_results_09_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(StudioError) as caught:
        votes.read_votes(tmp_path)
    assert caught.value.code == "votes-unreadable"
    assert votes.read_votes(tmp_path / "absent") == votes.Votes([], {})
