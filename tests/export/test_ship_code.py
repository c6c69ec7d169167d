"""What is pasted or run elsewhere does what the run does: code that answers, and a script that learns the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from class_lessons import class_lesson, rows_of, write
from lessons import curve, done, lesson, write_rows
from tiny import make_tiny_chat_model
from transformers import AutoTokenizer

from studio.errors import StudioError
from studio.export import Options, export
from studio.export.snippets import snippets
from studio.inference import Engine, Sampling, compare

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "What colour is number 3?"


def fresh(file: Path, folder: Path) -> str:
    """What a file prints in a new interpreter that does not see the studio."""
    done = subprocess.run([sys.executable, str(file)], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def answered(run, folder: Path) -> tuple[str, str]:
    """The answers of the pasted code, run in a folder, and of the studio; short, as the tiny model has little room."""
    text = snippets(run)["transformers"].replace("Write the question here.", QUESTION)
    text = text.replace("max_new_tokens=256", "max_new_tokens=32")
    file = run.folder / "pasted.py"
    file.write_text(f"import sys; sys.path.insert(0, {str(folder)!r})\n{text}")
    answers = compare(Engine(device="cpu"), [run.id], [QUESTION], Sampling(temperature=0, max_new_tokens=32))
    return fresh(file, folder).strip(), answers[QUESTION][0]["output"].strip()


def test_the_pasted_code_answers_as_the_studio_does(home, tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 16)
    run = done(lesson(tiny_model, rows, max_steps=40, learning_rate=0.05, eval_steps=0, save_steps=0))
    pasted, own = answered(run, tmp_path)
    assert pasted == own
    assert (
        own
        != compare(Engine(device="cpu"), [run.id, "base"], [QUESTION], Sampling(0, max_new_tokens=32))[QUESTION][1][
            "output"
        ].strip()
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "bottleneck", "prompt_tuning"])
def test_the_pasted_code_answers_so_for_other_methods(run_of, tmp_path, kind):
    folder = ROOT if kind == "bottleneck" else tmp_path  # that one needs the studio, and says so
    pasted, own = answered(run_of(kind), folder)
    assert pasted == own


@pytest.mark.slow
def test_the_pasted_code_gives_a_base_the_templates_new_tokens(run_of, tmp_path):
    pasted, own = answered(run_of(model=make_tiny_chat_model(tmp_path / "base", chat_template=None)), tmp_path)
    assert pasted == own


@pytest.mark.slow
def test_the_pasted_code_of_a_classifier_says_what_it_says(home, tiny_model, tmp_path):
    from studio.inference.classify import open_classifier
    from studio.models.classification import logits_of

    run = done(class_lesson(tiny_model, write(tmp_path / "rows.jsonl", rows_of()), max_steps=3))
    file = tmp_path / "pasted.py"
    file.write_text(snippets(run)["transformers"].replace("Write the text here.", "dog cat fox"))
    printed = {line.split()[1]: float(line.split()[0]) for line in fresh(file, tmp_path).splitlines()}
    opened = open_classifier(run, "cpu")
    ids = [*opened.tokenizer("dog cat fox")["input_ids"], opened.tokenizer.eos_token_id]
    shares = logits_of(opened.model, [ids], 0)[0].softmax(-1).tolist()
    assert printed == pytest.approx(dict(zip(opened.classes.names, shares, strict=True)), abs=6e-4)


def test_vllm_gets_a_lora_with_a_rank_that_it_takes(run_of):
    assert "enable_lora=True, max_lora_rank=16" in snippets(run_of(r=12))["vLLM"]


def test_what_vllm_does_not_take_is_left_out_and_told(run_of, tmp_path):
    made = export(run_of("ia3"), "snippet", tmp_path / "out")
    assert list(made.code) == ["transformers"]
    assert "vLLM takes adapters of LoRA alone" in made.told[0]


def losses(folder: Path) -> tuple[list[float], dict[int, float]]:
    """Training losses, and validation losses by step, of a script that has run."""
    fresh(folder / "train.py", folder.parent)
    history = json.loads((folder / "output/history.json").read_text())
    measured = {line["step"]: line["eval_loss"] for line in history if "eval_loss" in line}
    return [line["loss"] for line in history if "loss" in line], measured


def compared(recipe, tmp_path):
    """A run and its script, loss by loss."""
    run = done(recipe)
    made = export(run, "script", tmp_path / "script")
    trained, measured = losses(Path(made.path))
    assert trained == pytest.approx([loss for _, loss in curve(run)], rel=1e-4)
    assert measured == pytest.approx(dict(curve(run, "eval")), rel=1e-4)


def test_the_script_has_the_losses_of_the_run(home, tiny_model, tmp_path):
    """Over two epochs, so that the order of the second one is drawn, too."""
    rows = write_rows(tmp_path / "rows.jsonl", 24)
    compared(lesson(tiny_model, rows, max_steps=10, per_device_train_batch_size=4), tmp_path)
    written = json.loads((tmp_path / "script/output/model/generation_config.json").read_text())
    assert written["eos_token_id"] == AutoTokenizer.from_pretrained(tiny_model).convert_tokens_to_ids("<|im_end|>")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {"kind": "full"},
        {"kind": "lora", "r": 4, "use_dora": True, "lora_dropout": 0.2},
        {"kind": "lora", "r": 4, "init_lora_weights": "orthogonal", "rank_pattern": {"q_proj": 2}},
        {"kind": "oft"},
        {"kind": "prefix_tuning"},
    ],
    ids=lambda m: "-".join(map(str, m.values()))[:30],
)
def test_the_script_has_the_losses_of_the_run_for_other_methods(home, tiny_model, tmp_path, method):
    rows = write_rows(tmp_path / "rows.jsonl", 24)
    compared(lesson(tiny_model, rows, method=method, max_steps=10, per_device_train_batch_size=4), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "train",
    [
        {"group_by_length": False, "gradient_accumulation_steps": 2, "lr_scheduler_type": "warmup_stable_decay"},
        {"neftune_noise_alpha": 5, "weight_decay": 0.1, "optim": "adafactor", "logging_steps": 2},
        {"gradient_checkpointing": True, "eval_steps": 0, "save_steps": 0, "max_steps": -1, "num_train_epochs": 1.5},
    ],
)
def test_the_script_has_the_losses_of_the_run_for_other_settings(home, tiny_model, tmp_path, train):
    rows = write_rows(tmp_path / "rows.jsonl", 24)
    compared(lesson(tiny_model, rows, **{"max_steps": 8, **train}), tmp_path)


@pytest.mark.slow
def test_the_script_teaches_a_base_the_templates_new_tokens(home, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 24)
    base = make_tiny_chat_model(tmp_path / "base", chat_template=None)
    compared(lesson(base, rows, method={"kind": "full"}), tmp_path)


def test_an_adapter_that_trains_new_tokens_is_not_written_for_trl(run_of, tmp_path):
    run = run_of(model=make_tiny_chat_model(tmp_path / "base", chat_template=None))
    with pytest.raises(StudioError, match="new to the base"):
        export(run, "script", tmp_path / "script")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": {"kind": "bottleneck"}}, "tuner of this studio's own"),
        ({"method": {"kind": "adalora"}}, "AdaLoRA is pruned"),
        ({"method": {"kind": "lora", "init_lora_weights": "pissa"}}, "start pissa"),
        ({"method": {"kind": "lora", "loraplus_lr_ratio": 16}}, "LoRA\\+"),
        ({"model": {"quantization": "nf4"}}, "4 or 8 bits"),
        ({"model": {"task": "seq_cls"}}, "classifier"),
        ({"train": {"label_smoothing_factor": 0.1}}, "smooths labels"),
        ({"train": {"num_processes": 2}}, "Several processes"),
    ],
)
def test_what_plain_trl_does_not_do_is_refused_with_the_reason(changes, why):
    from studio.export import refusal
    from studio.recipe import Recipe

    with pytest.raises(StudioError, match=why):
        raise refusal(Recipe.parse(changes), "script")


def test_rows_that_have_changed_since_the_run_are_refused(run_of, tmp_path):
    run = run_of()
    write_rows(tmp_path / "rows.jsonl", 9)
    with pytest.raises(StudioError, match="not those that the run was trained on"):
        export(run, "script", tmp_path / "script")


def test_a_script_as_one_file_holds_all_that_it_reads(run_of, tmp_path):
    import zipfile

    made = export(run_of(), "script", tmp_path / "out", Options(zip=True))
    names = set(zipfile.ZipFile(made.path).namelist())
    assert {f"out/{name}" for name in ("train.py", "rows.jsonl", "held_out.jsonl", "recipe.yaml")} <= names
