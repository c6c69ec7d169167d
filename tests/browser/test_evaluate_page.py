"""The Evaluate tab in the browser: a run without a report, one with it, and the table of answers."""

import json

import pytest
from test_main_path import open_tab

from studio.evaluation.report_page import page as report_page
from studio.runs import EventLog, Run

SCORES = {
    "rows": 4,
    "skipped": 0,
    "base": {"loss": 2.0, "perplexity": 7.4, "exact_match": 0.0},
    "tuned": {"loss": 0.5, "perplexity": 1.6, "exact_match": 1.0},
    "intervals": {"base": {"exact_match": [0.0, 0.5]}, "tuned": {"exact_match": [0.5, 1.0]}},
    "p_values": {"loss": 0.01, "exact_match": 0.125},
    "counts": {"exact_match": 4},
    "seen": {"rows": 0, "base": None, "tuned": None},
}
HOSTILE = "<img src=x onerror=document.title='hit'>"


def suite() -> dict:
    passed = {"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (0.0, 0.0)}
    answers = [
        {
            "id": id,
            "tags": ["first" if id == "a" else "other"],
            "prompt": f"Prompt {id} {HOSTILE}",
            "reference": None,
            "answers": {
                side: {"output": f"{side} says {id}", "error": "", "new_tokens": 3, "passed": score}
                for side, score in zip(("base", "tuned"), scores, strict=True)
            },
        }
        for id, scores in passed.items()
    ]
    figures = {"means": {"base": {}, "tuned": {}}, "intervals": {}, "p_values": {}, "counts": {}}
    return {
        "name": "mine",
        "prompts": 3,
        "figures": figures,
        "tags": {},
        "won": ["b"],
        "lost": ["a"],
        "answers": answers,
    }


@pytest.fixture
def run(tiny_recipe) -> Run:
    """A finished run with a model's folder, that nobody has evaluated."""
    made = Run.create(tiny_recipe)
    made.claim()
    log = EventLog(made.events_path)
    log.write("finished", step=1)
    log.close()
    made.model_dir.mkdir()
    (made.model_dir / "adapter_config.json").write_text("{}", encoding="utf-8")
    (made.model_dir / "adapter_model.safetensors").write_bytes(b"x")
    return made


def test_an_evaluated_run_shows_its_report_and_answers_that_are_filtered_and_sorted(visit, run):
    report = {"run": run.id, "scores": SCORES, "suites": [suite()], "plain_text": None, "memorised": [], "examples": []}
    (run.folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (run.folder / "report.html").write_text(report_page(run, report), encoding="utf-8")
    page = visit()
    open_tab(page, "Evaluate")
    page.wait_for_selector(".suite-table")
    assert "Loss 2.000 → 0.500" in page.inner_text(".verdict.good")
    assert page.is_visible("#report-page")
    assert page.inner_text("[data-count]") == "3 of 3 prompts"
    page.check("[data-differ]")
    assert page.locator(".suite-table tbody tr:visible").count() == 2
    page.uncheck("[data-differ]")
    page.fill("[data-find]", "TUNED says b")
    assert page.inner_text("[data-count]") == "1 of 3 prompts"
    page.fill("[data-find]", "")
    page.click("[data-sort='1']")
    assert page.locator(".suite-table tbody tr small").first.inner_text() == "b"
    page.select_option("select[data-tag]", "first")
    assert page.inner_text("[data-count]") == "1 of 3 prompts"
    assert page.title() == "SFT Studio"


def test_an_evaluation_that_fails_says_why_and_can_be_started_again(visit, run):
    page = visit()
    open_tab(page, "Evaluate")
    page.wait_for_function("() => document.querySelector('#evaluation-state').innerText.includes('Not evaluated yet')")
    page.dblclick("#evaluate")
    page.wait_for_selector("#evaluate-cancel")
    page.wait_for_selector("#evaluation-state .message.bad", timeout=120_000)
    assert page.is_enabled("#evaluate")
