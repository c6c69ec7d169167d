"""One damaged run costs nobody anything but itself: it is listed with its reason, and everything else works."""

import json
import os

import pytest

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.runs import EventLog, Launcher, Run, list_runs, queue, read_events, trash
from studio.runs.events import LONGEST_LINE, last_events, read_portions
from studio.runs.feed import Feed
from studio.runs.index import RunIndex
from studio.ui import context as desk_module
from studio.ui.context import AppContext
from studio.ui.data.preview_process import Viewer
from studio.ui.runs import actions, overlay, tab

pytestmark = pytest.mark.usefixtures("home", "one_viewer")


@pytest.fixture(scope="module")
def viewer():
    made = Viewer()
    yield made
    made.close()


@pytest.fixture
def one_viewer(viewer, monkeypatch):
    """All desks read datasets in the same process: what it tells does not depend on the runs."""
    monkeypatch.setattr(desk_module, "Viewer", lambda: viewer)


def loop(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def moved_away(path):
    path.rename(path.parent.parent.parent / "of somebody else")
    path.symlink_to(path.parent.parent.parent / "of somebody else")


def folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


DAMAGES = {
    "recipe that is no YAML": lambda f: (f / "recipe.yaml").write_text("name: ["),
    "recipe that is a list": lambda f: (f / "recipe.yaml").write_text("- 1"),
    "recipe that is nested deeply": lambda f: (f / "recipe.yaml").write_text("name: " + "[" * 100_000),
    "recipe of binary data": lambda f: (f / "recipe.yaml").write_bytes(bytes(range(256)) * 10),
    "recipe of 2 MB": lambda f: (f / "recipe.yaml").write_text("name: " + "x" * (1 << 21)),
    "empty recipe": lambda f: (f / "recipe.yaml").write_text(""),
    "recipe missing": lambda f: (f / "recipe.yaml").unlink(),
    "recipe that is a folder": lambda f: folder(f / "recipe.yaml"),
    "recipe that links to itself": lambda f: loop(f / "recipe.yaml"),
    "events that are a folder": lambda f: folder(f / "events.jsonl"),
    "events that link to themselves": lambda f: loop(f / "events.jsonl"),
    "events that link to another file": lambda f: moved_away(f / "events.jsonl"),
}
HARMLESS = {
    "events with wrong types": lambda f: append(f, {"kind": "step", "step": "abc"}, {"kind": "warning", "what": 5}),
    "events of nested brackets": lambda f: append(f, "[" * 100_000, "\x00\x01"),
    "label of nested brackets": lambda f: (f / "label.json").write_text("[" * 100_000),
    "label with wrong types": lambda f: (f / "label.json").write_text('{"name": {"a": 1}, "tags": 7}'),
    "process of nested brackets": lambda f: (f / "process.json").write_text("[" * 100_000),
    "process with a huge pid": lambda f: (f / "process.json").write_text('{"pid": 1e999, "start": "x", "host": 3}'),
    "claim that is a folder": lambda f: folder(f / "claim"),
    "curves that are damaged": lambda f: (f / "curves.safetensors").write_bytes(b"\xff" * 64),
    "export with wrong types": lambda f: (f / "export.json").write_text('{"state": "done", "kind": 3}'),
    "report with wrong types": lambda f: (f / "report.json").write_text('{"suites": 3, "scores": []}'),
    "progress with wrong types": lambda f: (f / "report.progress.json").write_text("[1]"),
    "confusion with wrong types": lambda f: (f / "confusion.json").write_text('{"labels": 3, "counts": "x"}'),
    "checkpoints that are a file": lambda f: (f / "checkpoints").write_text("x"),
    "log that links to itself": lambda f: loop(f / "log.txt"),
}


def append(folder, *lines):
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)


def finished(name: str) -> Run:
    run = Run.create(Recipe(name=name))
    assert run.claim()
    log = EventLog(run.events_path)
    log.write("started", max_steps=2)
    log.write("step", step=1, loss=0.5, tokens=3)
    log.write("finished", step=2, accuracy=0.5, macro_f1=0.5)
    log.close()
    run.model_dir.mkdir()
    (run.model_dir / "config.json").write_text("{}")
    return run


def everything(broken: Run, sound: Run) -> AppContext:
    """Do all that the page and the command line do over a list of runs, with the broken one among them and shown."""
    desk = AppContext(Launcher())
    ids = [run.id for run in list_runs()]
    assert set(ids) == {broken.id, sound.id}
    assert list(desk.index.statuses()) == ids
    found = {summary["id"]: summary for summary in desk.index.summaries()}
    assert found[sound.id]["status"] == "finished" and "damaged" not in found[sound.id]
    assert [run.id for run in queue.waiting()] in ([], [broken.id])
    desk.launcher.tick()
    assert [value for _, value in tab.choices(desk)] == ids
    assert isinstance(overlay.apart(ids), str)
    for run in (broken, sound):
        assert tab.follow(desk, {"value": run.id, "seen": ""})["parts"]["run-state"]
        Feed().look(Run.open(run.id))
    assert actions.queue_html(queue.waiting(), trash.deleted())
    recipe = Recipe(name="next")
    assert isinstance(desk.known._time_line(recipe, 10), str)
    assert isinstance(desk.known.glance(recipe).html, str)
    return desk


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_security_06_a_damaged_run_is_listed_with_its_reason_and_everything_else_works(damage):
    broken, sound = finished("broken"), finished("sound")
    damage(broken.folder)
    desk = everything(broken, sound)
    assert desk.index.damages() == {broken.id: broken.damage}
    assert broken.damage
    summary = next(s for s in desk.index.summaries() if s["id"] == broken.id)
    assert summary["damaged"] == broken.damage
    assert summary["status"] in ("finished", "failed")
    assert not sound.damage


@pytest.mark.parametrize("damage", HARMLESS.values(), ids=HARMLESS)
def test_security_06_a_damaged_file_beside_the_recipe_costs_only_itself(damage):
    broken, sound = finished("broken"), finished("sound")
    damage(broken.folder)
    desk = everything(broken, sound)
    assert not desk.index.damages()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_security_06_what_needs_the_recipe_of_a_damaged_run_says_so_with_a_code(damage):
    run = finished("broken")
    damage(run.folder)
    if "events" in run.damage:
        return
    with pytest.raises(StudioError) as caught:
        _ = Run.open(run.id).recipe.check()
    assert caught.value.code == "run_damaged"


def test_security_06_a_file_and_a_broken_link_with_the_name_of_a_run_are_listed_as_damaged():
    sound = finished("sound")
    name = sound.id.replace("sound", "other")
    (sound.folder.parent / name).write_text("x")
    (sound.folder.parent / f"{name}2").symlink_to(f"{name}2")
    assert set(RunIndex().damages()) == {name, f"{name}2"}
    assert {s["status"] for s in RunIndex().summaries() if "damaged" in s} == {"failed"}
    trash.delete(Run.open(name))
    assert set(RunIndex().damages()) == {f"{name}2"}
    assert trash.empty() == 1


def test_security_06_a_recipe_that_is_damaged_and_mended_later_is_seen_both_times():
    run, index = finished("a"), RunIndex()
    for path in [*run.folder.iterdir(), run.folder]:
        os.utime(path, (1e9, 1e9))
    assert not index.damages()
    text = (run.folder / "recipe.yaml").read_text()
    (run.folder / "recipe.yaml").write_text("name: [")
    assert set(index.damages()) == {run.id}
    (run.folder / "recipe.yaml").write_text(text)
    assert not index.damages()


def test_security_06_a_damaged_run_in_the_queue_fails_and_the_next_one_starts(monkeypatch):
    from studio.runs import launcher

    started = []
    monkeypatch.setattr(launcher, "start_worker", lambda run, *_: started.append(run.id))
    broken, sound = Run.create(Recipe(name="a")), Run.create(Recipe(name="b"))
    (broken.folder / "recipe.yaml").write_text("name: [")
    made = Launcher(devices=("cpu",))
    monkeypatch.setattr(made, "_workers", {})
    made.tick()
    assert started == [sound.id]
    assert broken.status == "failed"
    assert broken.events()[-1]["code"] == "run_damaged"


def test_security_06_an_error_in_the_launcher_does_not_end_its_thread(monkeypatch):
    made, calls = Launcher(poll_seconds=0.01, devices=("cpu",)), []

    def tick():
        calls.append(1)
        if len(calls) > 2:
            made._closed.set()
        raise OSError("a disk that is gone")

    monkeypatch.setattr(made, "tick", tick)
    made._loop()
    assert len(calls) == 3


BAD_EVENTS = [
    {"kind": "step", "step": "abc"},
    {"kind": "step", "step": -1},
    {"kind": "step", "step": True},
    {"kind": "step", "step": 2**60},
    {"kind": "step", "step": 1, "loss": "1.0"},
    {"kind": "step", "step": 1, "time": "now"},
    {"kind": "step", "step": 1, "time": 1e300},
    {"kind": "eval", "step": 1, "loss": []},
    {"kind": "warning", "what": {"a": 1}},
    {"kind": "started", "max_steps": "many"},
    {"kind": "failed", "what": 1},
    {"kind": "failed", "rows": [{"row": "x"}]},
    {"kind": "finished", "run_memory_bytes": "x"},
    {"kind": "sample", "step": "x"},
    {"kind": "progress", "done": "x"},
    {"kind": 5},
]


@pytest.mark.parametrize("event", BAD_EVENTS, ids=json.dumps)
def test_security_06_an_event_with_a_value_of_a_wrong_type_is_skipped_and_counted(event):
    run = Run.create(Recipe())
    append(run.folder, {"time": 1, "kind": "step", "step": 3, "loss": 0.5}, event)
    view = run.view()
    assert (view.step, view.loss, view.bad_events) == (3, 0.5, 1)
    assert run.summary()["step"] == 3


def test_security_06_skipped_events_are_shown_on_the_page():
    run = finished("a")
    append(run.folder, {"kind": "step", "step": "abc"}, {"kind": "step", "step": []})
    shown = tab.follow(AppContext(Launcher()), {"value": run.id, "seen": ""})["parts"]
    assert "2 lines" in shown["run-warnings"]


def test_security_06_not_a_number_in_a_field_is_no_damage():
    run = Run.create(Recipe())
    append(run.folder, '{"time":1,"kind":"step","step":1,"loss":NaN,"tokens":Infinity}', '{"kind":"step","step":NaN}')
    assert run.view().step == 1
    assert run.view().bad_events == 1


def test_security_06_a_line_that_is_too_long_is_skipped_without_keeping_it():
    run = Run.create(Recipe())
    with run.events_path.open("wb") as file:
        file.write(b'{"kind":"step","step":1}\n{"kind":"')
        file.write(b"x" * (LONGEST_LINE + 5_000_000) + b'"}\n{"kind":"step","step":2}\n')
    portions = list(read_portions(run.events_path))
    assert [e["step"] for events, _ in portions for e in events] == [1, 2]
    assert sum(events.bad for events, _ in portions) == 1
    assert portions[-1][1] == run.events_path.stat().st_size
    events, offset = read_events(run.events_path)
    assert ([e["step"] for e in events], events.bad, offset) == ([1, 2], 1, run.events_path.stat().st_size)


def test_security_06_a_long_line_that_is_not_finished_keeps_no_reader_waiting():
    run = Run.create(Recipe())
    run.events_path.write_bytes(b'{"kind":"step","step":1}\n' + b"x" * 3_000_000)
    assert Feed().reader(run).wait().view.step == 1


def test_security_06_events_that_are_a_link_are_neither_read_nor_written(tmp_path):
    run, other = finished("broken"), tmp_path / "other.jsonl"
    run.events_path.rename(other)
    run.events_path.symlink_to(other)
    before = other.read_bytes()
    assert read_events(run.events_path)[0] == []
    for act in (last_events, EventLog):
        with pytest.raises(OSError, match="symbolic links"):
            act(run.events_path)
    assert other.read_bytes() == before
