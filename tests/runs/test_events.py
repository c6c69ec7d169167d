"""The event file: one writer, any number of readers, and no crash that makes it unreadable."""

import json
import math

import pytest

from studio.runs import EventLog, read_events
from studio.runs.events import last_events


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def test_what_is_written_is_read_in_order_with_its_time_and_kind(path):
    log = EventLog(path)
    for step in range(3):
        log.write("step", step=step, loss=0.5)
    events, _ = read_events(path)
    assert [(e["kind"], e["step"], e["loss"]) for e in events] == [("step", n, 0.5) for n in range(3)]
    assert all(e["time"] > 1_700_000_000 for e in events)


def test_a_reader_goes_on_from_its_offset(path):
    log = EventLog(path)
    log.write("step", step=1)
    first, offset = read_events(path)
    log.write("step", step=2)
    second, end = read_events(path, offset)
    assert [e["step"] for e in first + second] == [1, 2]
    assert read_events(path, end) == ([], end)


def test_half_a_last_line_is_not_read_until_it_is_whole(path):
    path.write_bytes(b'{"time": 1, "kind": "step", "step": 1}\n{"time": 2, "kind": "st')
    events, offset = read_events(path)
    assert [e["step"] for e in events] == [1]
    with path.open("ab") as file:
        file.write(b'ep", "step": 2}\n')
    assert [e["step"] for e in read_events(path, offset)[0]] == [2]


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00", b"{", b"[1]", b"7", b'{"no": "kind"}', b"\xff\xfe", b""])
def test_a_line_that_is_no_event_is_passed_over(path, garbage):
    path.write_bytes(b'{"time":1,"kind":"a"}\n' + garbage + b'\n{"time":2,"kind":"b"}\n')
    assert [e["kind"] for e in read_events(path)[0]] == ["a", "b"]


def test_a_file_that_is_not_there_has_no_events(path):
    assert read_events(path) == ([], 0)
    assert last_events(path) == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_written_as_null(path, number):
    EventLog(path).write("step", step=1, loss=number, more={"deep": [number, 1.0]})
    (event,) = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert event["loss"] is None
    assert event["more"] == {"deep": [None, 1.0]}


def test_any_text_can_be_written_and_stays_on_one_line(path):
    text = "a\nb\r\u2028\x85\x00 日本 \ud83d"
    EventLog(path).write("sample", output=text)
    (event,), _ = read_events(path)
    assert event["output"].startswith("a\nb\r\u2028\x85\x00 日本 ")


def test_a_writer_closes_a_line_that_an_earlier_one_was_cut_off_in(path):
    EventLog(path).write("step", step=1)
    with path.open("ab") as file:
        file.write(b'{"time": 2, "kind": "st')
    EventLog(path).write("step", step=3)
    assert [e["step"] for e in read_events(path)[0]] == [1, 3]


def test_a_second_writer_leaves_what_is_there(path):
    EventLog(path).write("started")
    EventLog(path).write("finished")
    assert [e["kind"] for e in read_events(path)[0]] == ["started", "finished"]


def test_the_last_events_of_a_long_file_are_read_without_the_rest(path):
    log = EventLog(path)
    for step in range(200):
        log.write("step", step=step)
    tail = last_events(path, window=1000)
    assert tail[-1]["step"] == 199
    assert 0 < len(tail) < 30


def test_the_last_events_may_be_of_certain_kinds(path):
    log = EventLog(path)
    for kind in ("started", "step", "eval", "step"):
        log.write(kind)
    assert [e["kind"] for e in last_events(path, ("started", "eval"))] == ["started", "eval"]
