"""A real studio in a real Chromium: the page is served in this process, workers are processes, the model is tiny.

Every page fails its test on a script error and on any request that leaves this machine.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HOW = "Chromium is not installed: `apt-get install chromium` (or set CHROMIUM to its path) runs the browser tests."


def chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if chromium() is None:
                item.add_marker(pytest.mark.skip(reason=HOW))


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace of its own for a module's tests, named by STUDIO_HOME, with no Hub."""
    home = tmp_path_factory.mktemp("studio")
    patch = pytest.MonkeyPatch()
    patch.setenv("STUDIO_HOME", str(home))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("OMP_NUM_THREADS", "1")
    yield home
    patch.undo()


@pytest.fixture(scope="module")
def tiny_recipe(workspace):
    """The recipe in the form: a tiny model and a small file, so that a run takes seconds."""
    from tiny import make_tiny_chat_model

    from studio.recipe import Recipe
    from studio.workspace import Workspace

    model = make_tiny_chat_model(workspace / "tiny-model")
    rows = workspace / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for number in range(40):
            file.write(json.dumps({"question": f"What is {number} plus 1?", "answer": f"It is {number + 1}."}) + "\n")
    recipe = Recipe.parse(
        {
            "name": "tiny",
            "model": {"id": str(model)},
            "data": {"source": str(rows), "max_length": 64},
            "method": {"kind": "lora", "r": 4},
            "train": {"max_steps": 12, "per_device_train_batch_size": 4, "eval_steps": 4, "save_steps": 6},
        }
    ).check()
    recipe.save(Workspace.current().draft)
    return recipe


@pytest.fixture(scope="module")
def studio(tiny_recipe):
    """The address of a running studio."""
    from studio.runs import Launcher
    from studio.runs.worker_server import WorkerServer
    from studio.ui.app import build, launch_options
    from studio.ui.context import AppContext

    launcher = Launcher(poll_seconds=0.1, server=WorkerServer()).start()
    page = build(AppContext(launcher))
    page.queue(default_concurrency_limit=8)
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, **launch_options())
    yield address.rstrip("/") + "/"
    launcher.close()
    page.close()


@pytest.fixture
def visit(browser, studio, tiny_recipe):
    """Open the studio in a fresh browser profile; ``visit()`` or ``visit(query="?run=...")``.

    The form starts from the tiny recipe, whatever an earlier test left in it.
    """
    from studio.runs import list_runs
    from studio.workspace import Workspace

    tiny_recipe.save(Workspace.current().draft)
    contexts, troubles = [], []

    def open_page(query: str = "", theme: str = "light"):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.wait_for_function = partial(_wait, page.wait_for_function)
        page.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
        page.on("request", lambda r: troubles.append(f"request to {r.url}") if _leaves(r.url) else None)
        separator = "&" if query else "?"
        page.goto(f"{studio}{query}{separator}__theme={theme}")
        page.wait_for_selector("#glance .panel")
        return page

    yield open_page
    for context in contexts:
        context.close()
    for run in list_runs():  # of a test that failed: the next one's run would wait for it
        if run.status in ("running", "queued"):
            run.stop()
    assert not troubles, troubles


def _wait(wait, condition: str, **options) -> None:
    """Wait for what a function or an expression in the page says; what is not drawn yet is waited for."""
    asked = f"const asked = ({condition}); return typeof asked === 'function' ? asked(value) : asked;"
    wait(f"value => {{ try {{ {asked} }} catch {{ return false; }} }}", **options)


def _leaves(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "http://localhost:", "data:", "blob:"))
