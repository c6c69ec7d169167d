"""The page: six tabs, the side panel, and the wiring between them. Importing it loads no torch."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from studio.errors import StudioError, StudioErrors
from studio.recipe import Recipe
from studio.recipe.presets import Preset, presets, read_changes, write_changes
from studio.runs import Launcher, Run, WorkerServer
from studio.ui import downloads, views
from studio.ui.compare import tab as compare_tab
from studio.ui.context import AppContext
from studio.ui.data import tab as data_tab
from studio.ui.data import uploads
from studio.ui.drafts import DEFAULT_RECIPE, is_browser, keep_draft, load_draft
from studio.ui.evaluate import tab as evaluate_tab
from studio.ui.field_names import worded
from studio.ui.form import Form
from studio.ui.live import live, slot
from studio.ui.method import tab as method_tab
from studio.ui.model import tab as model_tab
from studio.ui.runs import actions, charts, failure_panel
from studio.ui.runs import tab as runs_tab
from studio.ui.theme import CSS_PATH, theme
from studio.ui.wiring import QUIET, session_of, told
from studio.workspace import ASSETS, Workspace


def header(context: AppContext) -> gr.HTML:
    """The top line: name, device, and the run that is going on. Its value is the run that this page has launched."""
    device = f"{views.escape(context.machine['device'])} · {views.size(context.machine['total_bytes'])}"
    brand = f'<h1 class="brand">{views.LOGO}SFT Studio</h1><span class="space"></span>'
    return live(partial(going, context), 5, f'<div id="top">{brand}{slot()}<span class="chip">{device}</span></div>')


def going(context: AppContext, request: dict[str, Any]) -> dict[str, Any]:
    """The chip of the run that is going on, and what became of the launched one, for :func:`studio.ui.live.live`."""
    statuses, names = context.index.statuses(2.0), context.index.names(2.0)
    ids = [id for id, status in statuses.items() if status == "running"]
    named = views.escape(names.get(ids[0], ids[0])) if ids else ""
    chip = f'<span class="chip running"><i class="dot"></i><bdi>{named}</bdi></span>' if ids else ""
    launched = str(request.get("value") or "")
    return {"parts": {"top": chip, "launch-state": launch_state(context, launched)}}


def launch_state(context: AppContext, run_id: str) -> str:
    """What became of the run that a page has launched last."""
    statuses = context.index.statuses(2.0)
    if run_id and run_id not in statuses:
        statuses = context.index.statuses()  # it was launched a moment ago
    if run_id not in statuses:
        return ""
    kind, what = _LAUNCHED[statuses[run_id]]
    return views.message(kind, what, context.index.names(2.0).get(run_id, run_id))


_LAUNCHED = {
    "queued": ("calm", "Waiting to start:"),
    "running": ("good", "Launched:"),
    "finished": ("good", "Finished:"),
    "paused": ("calm", "Paused:"),
    "stopped": ("calm", "Stopped:"),
    "interrupted": ("bad", "Interrupted:"),
    "failed": ("bad", "Failed:"),
}


def build(context: AppContext) -> gr.Blocks:
    """The whole page."""
    gr.set_static_paths([charts.plotly_js()])
    form = Form(load_draft())
    # Gradio's copies of uploads go when they are a week old. A day would be too short: a page that is left open during
    # a long training still links to its copy of the recipe.
    with gr.Blocks(
        title="SFT Studio", fill_width=True, analytics_enabled=False, delete_cache=(3600, 7 * 86400)
    ) as page:
        top = header(context)
        browser = gr.Textbox("", visible="hidden", elem_id="browser")  # filled when the form has been loaded
        left = gr.Textbox("", visible="hidden", elem_id="left")  # what this window showed before a reload
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=480), gr.Tabs(elem_id="tabs") as tabs:
                with gr.Tab("1 · Model", id="model", render_children=True) as model_page:
                    model = model_tab.build(form)
                with gr.Tab("2 · Data", id="data", render_children=True) as data_page:
                    data = data_tab.build(form)
                with gr.Tab("3 · Method", id="method", render_children=True) as method_page:
                    method = method_tab.build(form)
                with gr.Tab("4 · Runs", id="runs", render_children=True) as runs_page:
                    runs = runs_tab.build(context)
                with gr.Tab("5 · Compare", id="compare", render_children=True) as compare_page:
                    compare = compare_tab.build(compare_tab.models(context), context.idle_unloader.line)
                with gr.Tab("6 · Evaluate", id="evaluate", render_children=True) as evaluate_page:
                    evaluation = evaluate_tab.build(context)
            with gr.Column(scale=2, min_width=270, elem_classes="card side"):
                glance = gr.HTML(elem_id="glance")
                drop = gr.Button("Skip these rows", visible=False, size="md", elem_id="drop-rows")
                launch = gr.Button("Start training", variant="primary", size="lg", interactive=False, elem_id="launch")
                note = gr.HTML(elem_id="launch-note")  # about the last action; the next one clears it
                gr.HTML(slot(), elem_id="launch-state")
                with gr.Accordion("Save or load a recipe", open=False):
                    save = gr.DownloadButton("Save this recipe", elem_id="save-recipe")
                    load = gr.UploadButton(
                        "Load a recipe file", file_types=None, type="filepath", elem_id="load-recipe"
                    )

        script = (ASSETS / "page.js").read_text(encoding="utf-8")
        gr.HTML(json.dumps(form.number_fields()), html_template="<i></i>", js_on_load=script, elem_id="page-script")
        fields = form.components()
        loaded = {*fields, browser}

        counting = gr.Timer(1.0, active=False)

        def panel(recipe: Recipe, browser_id: str | None, request: gr.Request) -> dict:
            seen = context.known.glance(recipe, session_of(request))
            return {
                glance: seen.html,
                launch: gr.update(interactive=seen.ready and is_browser(browser_id)),
                drop: gr.update(visible=seen.asks),
                counting: gr.Timer(active=seen.counting),
            }

        def panel_now(values: dict, request: gr.Request) -> dict:
            return panel(form.read(values), values[browser], request)

        def edited(values: dict, request: gr.Request) -> dict:
            context.launcher.warm()
            recipe = form.read(values)
            updates = {**panel(recipe, values[browser], request), note: ""}
            try:
                keep_draft(recipe, values[browser])
                file = to_save(recipe)
            except OSError as error:
                what = f"The form cannot be remembered: {error.strerror}."
                full = views.message("bad", what, "Free some disk space; a launch would fail too.")
                updates |= {glance: full + updates[glance], launch: gr.update(interactive=False)}
                file = gr.skip()
            return {**updates, save: file}

        def to_save(recipe: Recipe) -> Any:
            """The file that the button downloads: it must be there before the click."""
            if recipe.problems():
                return gr.skip()
            path = context.downloads / "studio-recipe.yaml"
            recipe.save(path)
            return gr.update(value=str(path))

        def show_model(values: dict) -> dict:
            return model_tab.updates(context, model, form.read(values))

        panel_parts = [glance, launch, drop, counting]
        refresh_panel = {"fn": edited, "inputs": loaded, "outputs": [*panel_parts, save, note], **QUIET}
        refresh_model = {"fn": show_model, "inputs": fields, "outputs": model.parts(), **QUIET}
        refresh_rows = data_tab.wire(context, form, data, data_page)

        # every edit shows in the panel
        gr.on([c.change for c in fields], trigger_mode="always_last", **refresh_panel)
        counting.tick(panel_now, loaded, panel_parts, **QUIET)
        data.report.result.change(panel_now, loaded, panel_parts, **QUIET)
        drop.click(lambda: "drop", None, form.fields["data.invalid_rows"], **QUIET)
        for path in ("model.id", "model.revision", "model.trust_remote_code"):
            form.fields[path].change(trigger_mode="always_last", **refresh_model)

        def get_model(values: dict) -> tuple[Any, Any, Any]:
            context.background.fetch(form.read(values))
            return views.working("Starting the download"), gr.update(visible=False), gr.Timer(active=True)

        def watch_model(values: dict, request: gr.Request) -> dict:
            """Ticks only until the model is here; the panel and the card say what it is."""
            recipe = form.read(values)
            return {**model_tab.updates(context, model, recipe), **panel(recipe, values[browser], request)}

        model.get.click(get_model, fields, [model.card, model.get, model.timer], **QUIET)
        model.timer.tick(watch_model, loaded, [*model.parts(), *panel_parts], **QUIET)

        def allow_code(values: dict, request: gr.Request) -> dict:
            """The one event that allows a model's code; every other one can only ask for it."""
            recipe = form.read(values)
            model_tab.allow_code(recipe, values[model.digest])
            return {**model_tab.updates(context, model, recipe), **panel(recipe, values[browser], request)}

        model.allow.click(told(allow_code), {*loaded, model.digest}, [*model.parts(), *panel_parts], **QUIET).then(
            **refresh_rows
        )
        model_page.select(**refresh_model)

        kind, rate = form.fields["method"], form.fields["train.learning_rate"]
        parts = [method.about, method.quantization, *method.groups.values()]
        kind.change(lambda chosen: method_tab.chosen(method, chosen), kind, parts, **QUIET)
        kind.input(method_tab.suggested_rate, [kind, rate], rate, **QUIET)

        def take(values: dict, preset: Preset) -> dict:
            before = form.read(values)
            recipe, changes = preset.applied(before, read_changes(values[method.preset]))
            said = method_tab.changes_html(preset, before, recipe)
            return {**form.show(recipe), method.changed: said, method.preset: write_changes(changes)}

        for name, button in method.presets.items():
            preset = presets()[name]
            button.click(
                lambda v, preset=preset: take(v, preset),
                {*fields, method.preset},
                [*fields, method.changed, method.preset],
                **QUIET,
            )

        def cost_now(values: dict, request: gr.Request) -> str:
            return method_tab.cost(context, form.read(values), session_of(request))

        costing = {"fn": cost_now, "inputs": fields, "outputs": [method.cost], **QUIET}
        costly = [
            form.fields[p] for p in form.fields if p.startswith(("method", "train.", "data.max_length", "model."))
        ]
        gr.on([c.change for c in costly], trigger_mode="always_last", **costing)
        method_page.select(**costing)

        # launching
        run_parts = [
            runs.run, runs.state, runs.chart, runs.chart.card, runs.others, runs.log, runs.stop, *runs.resume.parts,
            runs.compare, runs.seen, runs.samples, *runs.trouble.parts, *runs.actions.parts(), *runs.ship.parts(),
        ]  # fmt: skip

        def start(values: dict, request: gr.Request) -> dict:
            if not is_browser(values[browser]):
                what = "The page has not loaded its form yet."
                raise StudioError(what, "Wait until the panel shows the recipe.", code="form_not_loaded")
            recipe = form.read(values)
            stops = context.known.stops(recipe, session_of(request))
            if stops:
                return {note: views.problem(worded(StudioErrors(stops)))}
            run = context.launcher.submit(recipe)
            shown = runs_tab.show(context, runs, run.id, None)
            return {**shown, tabs: gr.update(selected="runs"), top: run.id, note: ""}

        launch.click(told(start), loaded, [*run_parts, tabs, top, note], api_visibility="private", trigger_mode="once")

        def look(run_id: str | None, seen: str | None) -> Any:
            return runs_tab.show(context, runs, run_id, seen) or gr.skip()

        runs.state.tick(look, [runs.run, runs.seen], run_parts, **QUIET)
        runs.run.input(lambda run_id: runs_tab.show(context, runs, run_id, None), runs.run, run_parts, **QUIET)
        runs.stop.click(lambda run_id: _stop(run_id), runs.run, runs.stop, **QUIET)

        def into_form(recipe: Recipe) -> dict:
            return {**form.show(recipe), tabs: gr.update(selected="method"), method.preset: "", method.changed: ""}

        actions.wire(
            context,
            runs.actions,
            runs.run,
            lambda run_id: runs_tab.show(context, runs, run_id or None, None),
            run_parts,
            into_form,
            [*fields, tabs, method.preset, method.changed],
        )

        def retry(run_id: str | None, keys: list[str]) -> dict:
            return runs_tab.show(context, runs, failure_panel.retry(context, run_id, keys).id, None)

        runs.trouble.retry.click(told(retry), [runs.run, runs.trouble.steps], run_parts, trigger_mode="once", **QUIET)

        # comparing
        def to_compare(run_id: str) -> list[Any]:
            return [gr.update(selected="compare"), *compare_tab.offered(context, compare, run_id=run_id)]

        runs.compare.click(to_compare, runs.run, [tabs, *compare.models], **QUIET)
        compare_tab.wire(context, compare)
        evaluate_page.select(**evaluate_tab.wire(context, evaluation))

        def models_now(values: dict) -> list[Any]:
            return compare_tab.offered(context, compare, [values[model] for model in compare.models])

        compare_page.select(models_now, set(compare.models), compare.models, **QUIET)
        for tab, primary in (
            (model_page, True),
            (data_page, True),
            (method_page, True),
            (runs_page, False),
            (compare_page, False),
            (evaluate_page, False),
        ):
            tab.select(
                lambda primary=primary: (gr.update(variant="primary" if primary else "secondary"), ""),
                None,
                [launch, note],
                **QUIET,
            )
            tab.select(None, None, None, js=f"() => {keep_in_window('tab', repr(tab.id))}")

        # recipes
        def refuse_problems(values: dict) -> None:
            form.read(values).check()

        save.click(told(refuse_problems), fields, None, **QUIET)

        def load_recipe(path: str) -> dict:
            try:
                recipe = Recipe.load(path).check()
            except StudioError as error:
                return {note: views.problem(uploads.named(error, path))}
            shown = {note: views.message("good", "Loaded", Path(path).name), method.preset: "", method.changed: ""}
            return {**form.show(recipe), **shown}

        load.upload(load_recipe, load, [*fields, note, method.preset, method.changed], api_visibility="private").then(
            **refresh_rows
        )

        # every visit starts from what is true now
        def visit(browser_id: str | None, before: str | None, request: gr.Request) -> dict:
            context.launcher.warm()
            recipe, kept = load_draft(browser_id), read_kept(before)
            found = context.index.statuses()
            wanted = request.query_params.get("run") if request else None
            run_id = (
                wanted if wanted in found else next((id for id, status in found.items() if status == "running"), None)
            )
            run_id = run_id or next(iter(found), None)
            tab = "runs" if wanted in found else kept["tab"]
            return {
                **form.show(recipe),
                form.fields["data.source"]: gr.update(
                    value=recipe.data.source, choices=data_tab.known_datasets(recipe.data.source)
                ),
                **panel(recipe, browser_id, request),
                browser: browser_id if is_browser(browser_id) else "",
                method.preset: write_changes(read_changes(json.dumps(kept["preset"]))),
                save: to_save(recipe),
                **model_tab.updates(context, model, recipe),
                **compare_tab.restored(context, compare, kept["compare"]),
                **(runs_tab.show(context, runs, run_id, None) if run_id else {}),
                **({tabs: gr.update(selected=tab)} if tab in TABS else {}),
            }

        keep_preset = f"text => {keep_in_window('preset', 'JSON.parse(text || null)')}"
        method.preset.change(None, method.preset, None, js=keep_preset)
        page.load(
            visit,
            [browser, left],
            [
                *fields,
                browser,
                *panel_parts,
                save,
                method.preset,
                *model.parts(),
                tabs,
                *compare.restorable(),
                *run_parts,
            ],
            js=(ASSETS / "load.js").read_text(encoding="utf-8"),
            **QUIET,
        ).then(**refresh_rows)  # the rows are ready before the Data tab is opened
    return page


TABS = ("model", "data", "method", "runs", "compare", "evaluate")


def keep_in_window(part: str, value: str) -> str:
    """JavaScript that keeps a value (an expression) for a reload of this window; see ``assets/load.js``."""
    return f"{{ try {{ sessionStorage.setItem('sft-studio-{part}', JSON.stringify({value})); }} catch {{}} }}"


def read_kept(text: str | None) -> dict[str, Any]:
    """What a window showed before it was reloaded: ``tab``, ``compare``, ``preset``; each None if it is not known."""
    try:
        kept = json.loads(text or "{}")
    except ValueError:
        kept = {}
    return {name: kept.get(name) if isinstance(kept, dict) else None for name in ("tab", "compare", "preset")}


def _stop(run_id: str | None) -> Any:
    if run_id:
        Run.open(run_id).stop()
    return gr.update(interactive=False)


def launch_options(host: str = "127.0.0.1") -> dict[str, Any]:
    """Options of ``Blocks.launch`` that make the page private, quiet and ours. It answers under the name ``host``."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    hosts = ["127.0.0.1", "localhost", "[::1]", "testserver"]
    space = os.environ.get("SPACE_HOST")
    anyone = host in ("0.0.0.0", "::") or space or os.environ.get("STUDIO_ANY_HOST")
    allowed = ["*"] if anyone else [*hosts, host]
    return {
        "theme": theme(),
        "css_paths": [CSS_PATH, ASSETS / "evaluation.css"],
        "favicon_path": ASSETS / "logo.svg",
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": [],
        "max_file_size": "4gb",
        "quiet": True,
        "app_kwargs": {
            "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=allowed)],
            "openapi_url": None,
            "routes": downloads.routes(),
        },
    }


def quieten(page: gr.Blocks) -> None:
    """Let Gradio's queue look 20 times a second whether somebody asks, and not a thousand times: that alone took 7 % of
    a core, which training wants. An answer of a model begins at most 50 ms later for it; all else has no queue."""
    page._queue.sleep_when_free = 0.05
    page._queue.progress_update_sleep_when_free = 0.2


def serve(host: str = "127.0.0.1", port: int = 7860, get_model: bool = True) -> None:
    """Start the studio and stay until it is ended. Runs that go on then go on without it.

    Args:
        get_model: get the built-in model in the background if it is not here yet.
    """
    launcher = Launcher(server=WorkerServer()).start()
    context = AppContext(launcher)
    context.settle_on_zero_gpu()
    recipe = Recipe.load(DEFAULT_RECIPE)
    page = build(context)
    page.queue(default_concurrency_limit=8)
    quieten(page)
    try:
        page.launch(server_name=host, server_port=port, prevent_thread_lock=True, **launch_options(host))
    except OSError as error:
        launcher.close()
        raise StudioError(f"Port {port} on {host} cannot be opened.", "Choose another one with --port.") from error
    print(f"SFT Studio is at http://{host}:{port} (workspace {Workspace.current().root})", flush=True)
    if get_model:
        context.background.fetch(recipe, quiet=False)
    try:
        page.block_thread()
    finally:
        launcher.close()
