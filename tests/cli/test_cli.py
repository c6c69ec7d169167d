"""The commands, as a person or a script calls them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from studio.cli import follow, main, models
from studio.cli import runs as cli_runs
from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import EventLog, Run

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds that a worker may take to start on a busy machine
STEPS = 120  # of the run that is stopped and taken up again


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A workspace for all tests here, with a recipe on a tiny model and 24 good rows after one that has no answer."""
    folder = tmp_path_factory.mktemp("cli")
    rows = [{"messages": [{"role": "user", "content": "Nobody answers."}]}]
    for i in range(24):
        turns = [("user", f"Where is order {i}?"), ("assistant", f"Order {i} is late.")]
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = {
        "model": {"id": str(tiny_model), "dtype": "float32"},
        "data": {"source": str(folder / "rows.jsonl"), "max_length": 128, "holdout": 0.25},
        "method": {"kind": "lora", "r": 4},
        "train": {
            "max_steps": STEPS,
            "per_device_train_batch_size": 2,
            "warmup_steps": 0,
            "eval_steps": 0,
            "save_steps": 0,
            "device": "cpu",
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def recipe(folder) -> str:
    return str(folder / "tiny.yaml")


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "app.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(worker: subprocess.Popen) -> SimpleNamespace:
    stdout, stderr = worker.communicate(timeout=PATIENCE)
    return SimpleNamespace(code=worker.returncode, stdout=stdout, stderr=stderr, id=stdout.splitlines()[-1])


def call(*arguments: str):
    """A command in this process."""
    return CliRunner().invoke(main.app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def trained(recipe):
    """``train`` with an override, to its end."""
    return finish(start("train", recipe, "train.max_steps=3"))


@pytest.fixture(scope="module")
def stopped(folder, recipe):
    """``train`` that is interrupted with Ctrl-C after its first steps."""
    runs = folder / "home" / "runs"
    before = set(runs.glob("*")) if runs.exists() else set()
    command = start("train", recipe)
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and command.poll() is None:
        logs = [p / "events.jsonl" for p in set(runs.glob("[0-9]*")) - before]
        if any('"kind":"step"' in log.read_text() for log in logs if log.exists()):
            break
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    return finish(command)


@pytest.fixture(scope="module")
def resumed(stopped):
    """The same run after ``resume``; ``before`` is its status in between."""
    before = Run.open(stopped.id).status
    result = finish(start("resume", stopped.id))
    result.before = before
    return result


def test_help_names_every_command_and_loads_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "trl", "gradio")
    code = "import sys, studio.cli.main\nsys.argv[1:] = ['--help']\n"
    code += "try:\n    studio.cli.main.main()\nexcept SystemExit as end:\n"
    code += f"    print(end.code, [name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert answer.splitlines()[-1] == "0 []"
    for command in ("train", "resume", "preview", "compare", "evaluate", "estimate", "runs", "fetch"):
        assert f" {command} " in answer


def test_without_a_command_the_studio_is_served(monkeypatch):
    served = []
    page = SimpleNamespace(serve=lambda host, port: served.append((host, port)))
    monkeypatch.setitem(sys.modules, "studio.ui.app", page)
    assert call().exit_code == 0
    assert call("--host", "0.0.0.0", "--port", "8000").exit_code == 0
    assert served == [("127.0.0.1", 7860), ("0.0.0.0", 8000)]


def test_train_ends_with_the_runs_id_and_exit_code_0(trained):
    assert trained.code == 0, trained.stderr
    assert Run.open(trained.id).status == "finished"
    assert trained.stdout == trained.id + "\n"
    assert "Training" in trained.stderr


def test_an_override_reaches_the_worker(trained):
    run = Run.open(trained.id)
    assert run.recipe.train.max_steps == 3
    assert run.view().step == 3


def test_ctrl_c_stops_with_a_usable_model_and_says_how_to_go_on(stopped):
    assert stopped.code == 1
    run = Run.open(stopped.id)
    assert run.has_model
    assert "Stopping" in stopped.stderr
    assert f"python app.py resume {stopped.id}" in stopped.stderr


def test_resume_goes_on_to_the_end_from_the_step_where_the_run_was_stopped(resumed):
    assert resumed.before == "stopped"
    assert resumed.code == 0, resumed.stderr
    run = Run.open(resumed.id)
    assert run.status == "finished"
    starts = [e for e in run.events() if e["kind"] == "started"]
    steps = [e["step"] for e in run.events() if e["kind"] == "step"]
    assert [e["resumed_from"] for e in starts] == [None, starts[1]["resumed_from"]]
    assert 0 < int(starts[1]["resumed_from"].split("-")[1]) < STEPS
    assert steps == list(range(1, STEPS + 1))
    assert "Going on from checkpoint-" in resumed.stderr


def test_a_finished_run_is_not_resumed(trained):
    result = call("resume", trained.id)
    assert result.exit_code == 1
    assert "it is finished" in result.stderr
    assert result.stdout == ""


def test_a_recipe_with_problems_says_all_of_them_and_leaves_no_run(folder, recipe):
    before = call("runs", "--json").stdout
    result = call("train", recipe, "train.learning_rat=1", "train.max_steps=0", "method.r=0")
    assert result.exit_code == 1
    assert result.stdout == ""
    for part in ("3 problems", "learning_rate?", "train.max_steps is 0", "Choose a value from 1 to 1,024."):
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert call("runs", "--json").stdout == before


@pytest.mark.parametrize("command", ["train", "preview", "estimate"])
def test_a_missing_recipe_is_a_message_and_exit_code_1(command):
    result = call(command, "nowhere.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no recipe at nowhere.yaml." in result.stderr


def test_a_bug_is_not_hidden_as_a_message(monkeypatch):
    monkeypatch.setattr(cli_runs, "RunIndex", lambda: 1 / 0)
    assert isinstance(call("runs").exception, ZeroDivisionError)


class Worker:
    """Stands in for ``start_worker``: writes events and is, or is not, alive."""

    def __init__(self, *events: tuple[str, dict], alive: bool = False):
        self.events, self.alive = events, alive

    def __call__(self, run: Run) -> SimpleNamespace:
        dead = {"pid": 2**22 + 1, "start": 1.0, "host": os.uname().nodename}
        process.write(run.folder / "process.json", process.describe(os.getpid(), []) if self.alive else dead)
        log = EventLog(run.events_path)
        for kind, fields in self.events:
            log.write(kind, **fields)
        log.close()
        return SimpleNamespace(wait=lambda timeout: 0, pid=dead["pid"])


def test_a_failed_run_says_what_and_how_to_mend_it(recipe, monkeypatch):
    worker = Worker(("failed", {"what": "The disk is full.", "fix": "Free some space.", "traceback": "Traceback ..."}))
    monkeypatch.setattr(follow, "start_worker", worker)
    result = call("train", recipe)
    run = Run.open(result.stdout.splitlines()[-1])
    assert (result.exit_code, run.status) == (1, "failed")
    assert "The disk is full." in result.stderr
    assert "Free some space." in result.stderr
    assert str(run.log_path) in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr


def test_a_worker_that_dies_without_a_word_is_interrupted_and_can_be_resumed(recipe, monkeypatch):
    started = ("started", {"max_steps": 5})
    monkeypatch.setattr(follow, "start_worker", Worker(started, ("step", {"step": 1, "loss": 2.0})))
    result = call("train", recipe)
    id = result.stdout.splitlines()[-1]
    assert (result.exit_code, Run.open(id).status) == (1, "interrupted")
    assert "interrupted" in result.stderr
    monkeypatch.setattr(follow, "start_worker", Worker(started, ("finished", {"step": 5})))
    assert call("resume", id).exit_code == 0


def test_a_warning_is_said_once(recipe, monkeypatch):
    warning = ("warning", {"what": "2 rows are left out.", "fix": "See the preview."})
    monkeypatch.setattr(follow, "start_worker", Worker(warning, ("finished", {"step": 5})))
    result = call("train", recipe)
    assert result.stderr.count("2 rows are left out.") == 1


def test_a_second_ctrl_c_leaves_the_run_to_itself(recipe, monkeypatch):
    monkeypatch.setattr(follow, "start_worker", Worker(("started", {"max_steps": 5}), alive=True))
    before = signal.getsignal(signal.SIGINT)

    def press_twice() -> None:
        while signal.getsignal(signal.SIGINT) is before:
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(2 * follow.LOOK_SECONDS)

    finger = threading.Thread(target=press_twice, daemon=True)
    finger.start()
    result = call("train", recipe)
    finger.join()
    run = Run.open(result.stdout.splitlines()[-1])
    assert result.exit_code == main.DETACHED
    assert run.stopping
    assert run.status == "running"
    assert "continues in the background" in result.stderr


def test_preview_shows_the_very_tokens_and_labels_of_the_trainer(recipe, tiny_tokenizer):
    from studio.data import encode_conversation

    result = call("preview", recipe, "--rows", "3", "--json")
    rows = json.loads(result.stdout)
    assert len(rows) == 3
    for index, row in enumerate(rows[1:]):
        turns = [
            {"role": "user", "content": f"Where is order {index}?"},
            {"role": "assistant", "content": f"Order {index} is late."},
        ]
        expected = encode_conversation(tiny_tokenizer, turns, max_length=128)
        assert row == {
            "text": expected.text,
            "input_ids": expected.input_ids,
            "labels": expected.labels,
            "dropped": None,
        }


def test_preview_says_why_a_row_is_left_out(recipe):
    row = json.loads(call("preview", recipe, "--rows", "1", "--json").stdout)[0]
    assert (row["input_ids"], row["labels"], row["dropped"]) == ([], [], "no assistant turn")
    rows = json.loads(call("preview", recipe, "data.max_length=9", "--rows", "2", "--json").stdout)
    assert "max_length 9" in rows[1]["dropped"]
    assert rows[1]["labels"] == []


def test_preview_shows_the_flags_of_a_row_and_a_refused_row_with_its_code(recipe, tmp_path):
    template = tmp_path / "open.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    text = f"chat_template={template}"
    rows = json.loads(call("preview", recipe, f"data.{text}", "--rows", "2", "--json").stdout)
    assert rows[1]["code"] == "turn_not_closed"
    assert rows[1]["text"].startswith("user: ")
    start, end = rows[1]["place"]
    assert 0 < start < end <= len(rows[1]["text"])
    assert "turn_not_closed" in call("preview", recipe, f"data.{text}", "--rows", "2").stdout
    flagged = "data.max_length=24"
    rows = json.loads(call("preview", recipe, flagged, "--rows", "3", "--json").stdout)
    cut = [row for row in rows if "end_token_cut" in [flag["code"] for flag in row.get("flags", [])]]
    assert cut
    assert "end_token_cut" in call("preview", recipe, flagged, "--rows", "3").stdout


def test_preview_marks_what_carries_loss_where_there_are_no_colours(recipe):
    text = call("preview", recipe, "--rows", "2").stdout
    assert text.startswith("rows.jsonl: OpenAI messages")
    assert "left out: no assistant turn" in text
    assert "⟦Order 0 is late.<|im_end|>⟧" in text
    assert "Where is order 0?" in text


def test_runs_lists_every_run_with_its_state(trained):
    listed = {run["id"]: run for run in json.loads(call("runs", "--json").stdout)}
    run = listed[trained.id]
    assert list(run) == ["id", "status", "recipe", "step", "max_steps", "loss", "started", "ended"]
    assert (run["status"], run["recipe"], run["step"], run["max_steps"]) == ("finished", "tiny", 3, 3)
    assert run["loss"] > 0
    assert run["started"] <= run["ended"]
    assert trained.id in call("runs").stdout


def test_an_empty_workspace_lists_no_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    assert json.loads(call("runs", "--json").stdout) == []
    assert "train recipes/quickstart.yaml" in call("runs").stderr


def test_estimate_counts_what_the_worker_counted(trained, recipe):
    result = json.loads(call("estimate", recipe, "train.max_steps=-1", "--json").stdout)
    started = Run.open(trained.id).view().started
    assert list(result) == ["trainable_parameters", "total_parameters", "steps", "memory_bytes", "disk_bytes"]
    assert result["trainable_parameters"] == started["trainable_parameters"]
    assert result["total_parameters"] == started["total_parameters"]
    assert result["steps"] == started["rows"]  # two epochs of batches of two
    parts = result["memory_bytes"]
    assert list(parts) == ["weights", "adapters", "gradients", "optimizer", "activations", "context", "total"]
    assert parts["total"] == sum(size for part, size in parts.items() if part != "total")
    assert json.loads(call("estimate", recipe, "--json").stdout)["steps"] == STEPS


def test_compare_asks_base_and_tuned_the_same(trained, folder):
    prompts = folder / "prompts.txt"
    prompts.write_text("Where is order 1?\n\nHello?\n", encoding="utf-8")
    arguments = ("compare", "base", trained.id, "--prompts", prompts, "--prompt", "One more", "--max-new-tokens", 4)
    answers = json.loads(call(*arguments, "--json").stdout)
    assert sorted(answers) == ["Hello?", "One more", "Where is order 1?"]
    for given in answers.values():
        assert [answer["model"] for answer in given] == ["base", trained.id]
        for answer in given:
            assert list(answer) == ["model", "output", "new_tokens", "seconds", "first_token_seconds"]
            assert 1 <= answer["new_tokens"] <= 4
    again = json.loads(call(*arguments, "--json").stdout)
    assert [a["output"] for a in again["Hello?"]] == [a["output"] for a in answers["Hello?"]]


def test_compare_without_a_prompt_says_so():
    result = call("compare", "base")
    assert result.exit_code == 1
    assert "--prompt TEXT" in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "one\n\ntwo\n", ["one", "two"]),
        ("a.json", '["one", {"prompt": "two\\nlines"}]', ["one", "two\nlines"]),
        ("a.jsonl", '{"prompt": "one"}\n"two"\n', ["one", "two"]),
    ],
)
def test_prompts_come_from_text_json_and_jsonl(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert models._read_prompts(tmp_path / name) == expected


def test_evaluate_scores_base_and_tuned_on_the_held_out_rows(trained):
    scores = json.loads(call("evaluate", trained.id, "--json").stdout)
    assert scores["rows"] == Run.open(trained.id).view().started["held_out_rows"]
    for model in ("base", "tuned"):
        assert {"loss", "perplexity", "exact_match"} <= set(scores[model])
    assert scores["tuned"]["loss"] == pytest.approx(Run.open(trained.id).view().eval_loss, rel=1e-4)
    assert scores["tuned"]["loss"] < scores["base"]["loss"]


def test_fetch_prints_the_folder_of_a_model_that_is_at_hand(recipe, capfd):
    model = Recipe.load(recipe).model.id
    assert call("fetch", model).stdout.splitlines()[-1] == model
    assert call("fetch", "/nowhere/x.gguf").exit_code == 1


def test_check_looks_at_every_row_and_says_what_it_found(recipe, tmp_path):
    rows = [{"question": "What?", "answer": "One."}, {"question": "what?", "answer": "Two."}, {"question": "Why?"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ("check", recipe, f"data.source={tmp_path / 'rows.jsonl'}", "data.holdout=0")
    report = json.loads(call(*arguments, "--json").stdout)
    assert (report["rows"], report["kept"]) == (3, 2)
    assert {f["kind"]: f["count"] for f in report["findings"]} == {"dropped": 1, "contradiction": 1}
    assert "conflicting answers to one prompt" in call(*arguments).stdout
