"""What a run leaves: an adapter that names its base as others know it, and a merged model that says the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lessons import done, lesson, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from studio.errors import StudioError
from studio.inference import Engine
from studio.models.builtin import NAME, public_id
from studio.models.load import load_model
from studio.recipe import ModelSpec
from studio.recipe.methods import METHODS
from studio.runs import Run
from studio.training.saving import merge

ROOT = Path(__file__).resolve().parents[2]
IDS = torch.arange(10, 30).view(1, -1)


@pytest.fixture
def run_of(home, tiny_model, tmp_path, kept_runs):
    rows = write_rows(tmp_path / "rows.jsonl")
    return lambda kind="lora", **fields: kept_runs.run_of(
        lesson(tiny_model, rows, method={"kind": kind, **fields}, learning_rate=METHODS[kind].suggested, max_steps=3),
        rows,
    )


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@torch.no_grad()
def tuned_logits(run):
    handle = Engine(device="cpu").open(run.id)
    with handle.weights.use_adapter(handle.adapter):
        return handle.weights.model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", ["lora", "loha", "oft", "ln_tuning"])
def test_a_merged_model_needs_no_peft_and_says_the_same(run_of, kind, tmp_path):
    run = run_of(kind)
    folder = merge(run, tmp_path / "merged")
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder)), tuned_logits(run), atol=2e-5)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert not (folder / "adapter_config.json").exists()
    assert "merged into the base" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_merged_model_is_a_base_like_any_other(run_of, tmp_path):
    folder = merge(run_of(), tmp_path / "merged")
    assert load_model(ModelSpec(id=str(folder))).num_parameters() > 0


def test_it_is_written_in_the_number_format_that_is_asked_for(run_of, tmp_path):
    folder = merge(run_of(), tmp_path / "merged", dtype="bfloat16")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", ["bottleneck", "prompt_tuning", "prefix_tuning", "full", "freeze"])
def test_what_cannot_be_merged_says_why(run_of, kind, tmp_path):
    with pytest.raises(StudioError, match=r"cannot be folded|whole already"):
        merge(run_of(kind), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_folder_that_is_there_is_not_written_over(run_of, tmp_path):
    (tmp_path / "merged").mkdir()
    with pytest.raises(StudioError, match="exists already"):
        merge(run_of(), tmp_path / "merged")


def test_a_run_without_a_model_is_not_merged(home, tiny_model, tmp_path):
    run = Run.create(lesson(tiny_model, write_rows(tmp_path / "rows.jsonl")))
    with pytest.raises(StudioError, match="no tuned model yet"):
        merge(run, tmp_path / "merged")


def test_an_adapter_names_its_base_as_the_recipe_does(run_of, tiny_model):
    config = json.loads((run_of().model_dir / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)


def test_the_builtin_model_is_named_as_on_the_hub():
    assert public_id(NAME) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_an_adapter_from_elsewhere_is_spoken_with_by_its_path(run_of, tmp_path, monkeypatch):
    """Copied out of its run, without a tokenizer: the base that it names gives the rest."""
    monkeypatch.setattr("studio.models.load._fast_cpu_dtype", lambda: "float32")  # as the run, on any machine
    run = run_of()
    folder = tmp_path / "somebody's"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((run.model_dir / name).read_bytes())
    handle = Engine(device="cpu").open(f"adapter:{folder}")
    with torch.no_grad(), handle.weights.use_adapter(handle.adapter):
        found = handle.weights.model(input_ids=IDS).logits
    assert torch.equal(found, tuned_logits(run))


def test_an_adapter_that_peft_does_not_have_is_loaded_in_a_fresh_process(run_of):
    run = run_of("bottleneck")
    code = f"from studio.inference import Engine; print(Engine(device='cpu').open('{run.id}').adapter)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "run0001", done.stderr


def test_an_adapter_that_is_not_there_is_refused(home, tmp_path):
    with pytest.raises(StudioError, match="no adapter at"):
        Engine(device="cpu").open(f"adapter:{tmp_path / 'nothing'}")


@pytest.fixture
def two_ends(tiny_model, tmp_path):
    """A model whose end and padding token is <|endoftext|>, while its template ends a turn with <|im_end|>."""
    folder = tmp_path / "two-ends"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        values = json.loads(path.read_text()) | dict.fromkeys(("eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
        path.write_text(json.dumps(values))
    return folder


class _Always(torch.nn.Module):
    """A logits processor that leaves one token."""

    def __init__(self, token):
        super().__init__()
        self.token = token

    def forward(self, ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([self.token]), 0.0)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_data_10_plain_transformers_stops_at_the_templates_end_of_turn(home, two_ends, tmp_path, kind):
    run = done(lesson(two_ends, write_rows(tmp_path / "rows.jsonl"), method={"kind": kind}, max_steps=1))
    tokenizer = AutoTokenizer.from_pretrained(run.model_dir)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    folder = merge(run, tmp_path / "merged") if kind == "lora" else run.model_dir
    for place in {run.model_dir, folder}:
        settings = json.loads((place / "generation_config.json").read_text())
        assert (settings["eos_token_id"], settings["pad_token_id"]) == (ends, ends[1])
    model = AutoModelForCausalLM.from_pretrained(folder)
    for end in ends:
        written = model.generate(IDS, max_new_tokens=5, do_sample=False, logits_processor=[_Always(end)])
        assert written.shape[1] == IDS.shape[1] + 1
    handle = Engine(device="cpu").open(run.id)
    assert handle.stop_ids == set(ends)
