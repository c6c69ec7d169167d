"""The commands of ``python app.py``. The one place, besides the page, where a ``StudioError`` becomes a message.

Results go to stdout and everything else to stderr. Whatever is heavy is imported inside the command that needs it, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from studio import terminal
from studio.cli_evaluate import app as evaluation_commands
from studio.cli_export import app as export_commands
from studio.cli_runs import RunId
from studio.cli_runs import app as run_commands
from studio.errors import StudioError
from studio.follow import launch_and_follow
from studio.models.builtin import NAME as BUILTIN_MODEL
from studio.recipe import Recipe
from studio.recipe_docs import knobs
from studio.runs import Run
from studio.runs.ended import killed_for_memory
from studio.runs.label import Label

DETACHED = 130  # exit code, as shells have it for an interrupted command


class Edge(TyperGroup):
    """Turns errors that are the user's to mend into messages with exit code 1; anything else is a bug and shows."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StudioError as error:
            terminal.show_error(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Edge,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file such as those in recipes/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="path.to.field=value", help="Fields of the recipe to change, e.g. train.max_steps=10."),
]
app.add_typer(run_commands)
app.add_typer(evaluation_commands)
app.add_typer(export_commands)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.", envvar="GRADIO_SERVER_NAME")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", envvar="GRADIO_SERVER_PORT", min=1, max=65535)] = 7860,
) -> None:
    """SFT Studio: fine-tune a language model. Without a command it serves the studio for the browser.

    STUDIO_HOME names the folder that holds models, datasets and runs (default: ./workspace).
    """
    if context.invoked_subcommand is None:
        from studio.ui.app import serve as serve_studio

        serve_studio(host, port)


@app.command(epilog=f"Fields of a recipe, explained in docs/recipe.md: {', '.join(knob.path for knob in knobs())}.")
def train(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train a recipe. The last line on stdout is the run's id; the exit code is 0 only if the run finished.

    Ctrl-C asks the run to stop with a checkpoint and a usable model; a second one leaves it to itself.
    """
    checked = Recipe.load(recipe, overrides).check()
    _launch_and_follow(Run.create(checked))


@app.command()
def create(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Make the run of a recipe without starting it; prints its folder. For `launch-script`: no studio starts it."""
    made = Run.create(Recipe.load(recipe, overrides).check())
    made.claim()
    print(made.folder, flush=True)


@app.command("launch-script")
def launch_script(
    recipe: RecipePath,
    overrides: Overrides = None,
    machines: Annotated[int, typer.Option(help="How many machines.", min=1)] = 2,
    processes: Annotated[int, typer.Option(help="Processes on each: one for each of its GPUs.", min=1)] = 1,
    slurm: Annotated[bool, typer.Option(help="A batch script for SLURM.")] = False,
    port: Annotated[int, typer.Option(help="A free port on machine 0.", min=1, max=65535)] = 29500,
) -> None:
    """Print the commands that train a recipe on several machines with a common file system."""
    from studio.runs.script import launch_script as script

    Recipe.load(recipe, [*(overrides or []), f"train.num_processes={processes}"]).check()
    print(script(recipe, overrides or [], machines=machines, processes=processes, slurm=slurm, port=port), end="")


@app.command()
def resume(run: RunId) -> None:
    """Go on with a paused, stopped, failed or interrupted run, from its last checkpoint."""
    opened = Run.open(run)
    opened.reopen()
    _launch_and_follow(opened)


@app.command()
def again(
    run: RunId,
    overrides: Overrides = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Of a run that ran out of memory: with as little change as makes it fit.")
    ] = False,
) -> None:
    """Train a run's recipe once more, with changes if any are given: a new run."""
    opened = Run.open(run)
    recipe = Recipe.load(opened.folder / "recipe.yaml", overrides)
    if fit:
        from studio.training.relief import ran_out, relieved_run

        told = ran_out(opened, opened.status, opened.view())
        if told is None:
            raise StudioError(f"The run {opened.id} did not run out of memory.", "Leave out --fit.")
        recipe, steps = relieved_run(recipe.check(), told)
        for step in steps:
            terminal.stderr().print(f"Changed: {step.title}", markup=False, soft_wrap=True)
    _launch_and_follow(Run.create(recipe, Label(parent=opened.id)))


@app.command()
def preview(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="How many rows, from the first one on.", min=1)] = 5,
    as_json: Json = False,
) -> None:
    """Show rows as the trainer will see them: rendered, tokenised, with the tokens that carry loss marked, or with
    their class."""
    checked = Recipe.load(recipe, overrides).check()
    with terminal.working() as report:
        from studio.data import classes_of, encode_row, read_conversations
        from studio.models.classifier import prepare
        from studio.models.load import load_tokenizer
        from studio.models.store import fetch

        task = checked.model.task
        reading = read_conversations(checked.data, task=task)
        classes = classes_of(checked.data, checked.train.seed) if task == "seq_cls" else None
        folder = fetch(checked.model, progress=report)
        tokenizer = load_tokenizer(folder, trust_remote_code=checked.model.trust_remote_code)
        notes = prepare(tokenizer, None, checked)
        seen: list[tuple[int, Any, str | None]] = []  # row number, Encoded or None, why it is dropped
        for conversation in islice(reading.conversations, rows):
            encoded = None
            if conversation.dropped is None:
                encoded = encode_row(tokenizer, conversation.content(), checked.data, classes)
            seen.append((conversation.row, encoded, conversation.dropped or encoded.dropped))
    if as_json:
        terminal.print_json([_preview_row(encoded, dropped, classes) for _, encoded, dropped in seen])
        return
    console = terminal.stdout()
    mapping = ", ".join(f"{part} = {column}" for part, column in reading.mapping.columns.items())
    console.print(f"{reading.source}: {reading.mapping.why} Mapping: {mapping}.", markup=False, soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    if classes:
        console.print(f"Classes: {', '.join(classes.names)}.", markup=False, soft_wrap=True)
    else:
        terminal.show_legend(console, checked.data.max_length)
    for number, encoded, dropped in seen:
        if dropped:
            console.print(f"\n[bold]Row {number}[/]  [yellow]left out:[/] {escape(dropped)}", soft_wrap=True)
        else:
            trained = sum(1 for label in encoded.labels if label != -100)
            learnt = terminal.class_names(classes.named(encoded.label)) if classes else f"{trained} carry loss"
            counts = f"{len(encoded.input_ids)} tokens, {escape(learnt)}"
            console.print(f"\n[bold]Row {number}[/]  {counts}" + (f", {encoded.cut} cut off" if encoded.cut else ""))
        if encoded is not None:
            console.print(terminal.token_text(console, encoded), soft_wrap=True)


def _preview_row(encoded: Any, dropped: str | None, classes: Any) -> dict[str, Any]:
    kept = encoded if not dropped else None
    label = {"label": classes.named(kept.label) if kept else None} if classes else {}
    return {
        "text": encoded.text if encoded else "",
        "input_ids": kept.input_ids if kept else [],
        "labels": kept.labels if kept else [],
        **label,
        "dropped": dropped,
    }


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Look at every row of the dataset: what is left out or cut, duplicates, contradictions, leaks, keys."""
    checked = Recipe.load(recipe, overrides).check()
    with terminal.working() as report:
        from studio.models.store import fetch
        from studio.training.check import check as check_rows

        fetch(checked.model, progress=report)
        found = check_rows(checked, lambda rows: report(f"Checking: {rows:,} rows so far", 0, 0))
    if as_json:
        terminal.print_json(json.loads(found.to_json()))
    else:
        terminal.show_report(terminal.stdout(), found)


@app.command()
def clean(
    recipe: RecipePath,
    target: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Where to write the rows.")],
    overrides: Overrides = None,
    without: Annotated[
        str, typer.Option(help="Findings of `check` whose rows are left out, with commas between them.")
    ] = "duplicate",
    as_json: Json = False,
) -> None:
    """Write the rows of the dataset to a JSONL file, without those that cannot be trained on and those named."""
    checked = Recipe.load(recipe, overrides).check()
    with terminal.working() as report:
        from studio.models.store import fetch
        from studio.training.clean import clean as clean_rows

        fetch(checked.model, progress=report)
        kinds = [kind.strip() for kind in without.split(",") if kind.strip()]
        kept, left = clean_rows(checked, target, kinds, lambda rows: report(f"Rows so far: {rows:,}", 0, 0))
    if as_json:
        terminal.print_json({"kept": kept, "left_out": left, "path": str(target)})
    else:
        terminal.stdout().print(f"{kept:,} rows are in {target}; {left:,} are left out.", soft_wrap=True)


@app.command()
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|base ...", help="Runs, RUN@STEP for a checkpoint, base, base:MODEL, or adapter:NAME."
        ),
    ],
    prompt: Annotated[list[str] | None, typer.Option(help="What to ask; may be given several times.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file of prompts: one a line, or a .json list, or .jsonl with `prompt`.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens of this total probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep so many of the likeliest tokens; 0 keeps all.")] = 0,
    min_p: Annotated[
        float, typer.Option(help="Keep the tokens at least this share as likely as the likeliest; 0 keeps all.")
    ] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes repetition less likely.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    as_json: Json = False,
) -> None:
    """Ask base and tuned models the same prompts. `base` is the model under the first run, checkpoint or adapter."""
    from studio.inference import Engine, Sampling
    from studio.inference import compare as compare_models

    asked = [*(prompt or []), *(_read_prompts(prompts) if prompts else [])]
    if not asked:
        raise StudioError("There is no prompt.", "Give --prompt TEXT or --prompts FILE.")
    sampling = Sampling(temperature, top_p, top_k, repetition_penalty, max_new_tokens, seed, min_p)
    with terminal.working() as report:
        answers = compare_models(Engine(), models, asked, sampling, report)
    if as_json:
        terminal.print_json(answers)
        return
    console = terminal.stdout()
    for question, given in answers.items():
        console.print(terminal.answers_table(given, question))


def _read_prompts(path: Path) -> list[str]:
    """The prompts in a file: a ``.json`` list, ``.jsonl`` (strings, or objects with ``prompt``), or lines of text."""
    import json

    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip()]
        kind = path.suffix.lower()
        if kind not in (".json", ".jsonl"):
            return lines
        items = json.loads(text) if kind == ".json" else [json.loads(line) for line in lines]
    except OSError as error:
        raise StudioError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except ValueError as error:  # broken JSON, or bytes that are not UTF-8
        raise StudioError(f"{path} cannot be read: {error}.", "Mend the file; it must be UTF-8.") from error
    items = items if isinstance(items, list) else [items]
    prompts = [item.get("prompt") if isinstance(item, dict) else item for item in items]
    if not all(isinstance(item, str) for item in prompts):
        raise StudioError(f"{path} is not a list of prompts.", 'Use strings, or objects such as {"prompt": "..."}.')
    return prompts


@app.command()
def merge(
    run: RunId,
    folder: Annotated[Path, typer.Argument(help="Where the merged model goes; it must not exist yet.")],
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Fold a run's adapter into its base: a model that needs no PEFT."""
    from studio.training.saving import merge as merge_adapter

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise StudioError(f"--dtype is {dtype!r}.", "Use auto, float32, bfloat16 or float16.")
    with terminal.working() as report:
        made = merge_adapter(Run.open(run), folder, dtype=dtype, progress=report)
    terminal.stdout().print(str(made), soft_wrap=True)


@app.command()
def estimate(recipe: RecipePath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Estimate memory, trained parameters and optimizer steps on this machine, without loading any weights."""
    checked = Recipe.load(recipe, overrides).check()
    with terminal.working() as report:
        from studio.training.forecast import forecast

        expected = forecast(checked, report)
    if as_json:
        terminal.print_json(expected.to_dict())
        return
    console = terminal.stdout()
    console.print(terminal.estimate_table(expected.to_dict()))
    for note in expected.notes:
        console.print(note, markup=False, soft_wrap=True)


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="builtin/NAME, a Hub id, a folder or a .gguf file.")] = BUILTIN_MODEL,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Fetch the model's own Python code too.")] = False,
) -> None:
    """Fetch a base model ahead of time. The last line on stdout is its folder."""
    from studio.models.fetch import main as fetch_model

    if not model.strip():
        raise StudioError("No model is named.", f"Name one, for example {BUILTIN_MODEL}.")
    options = ["--revision", revision] if revision else []
    options += ["--trust-remote-code"] if trust_remote_code else []
    raise typer.Exit(fetch_model([*options, "--", model]))


def _launch_and_follow(run: Run) -> None:
    """Start a queued run, show it, print its id as the last line on stdout; only a finished run returns normally.

    Raises:
        StudioError: the run failed, or its worker died.
    """
    status = launch_and_follow(run)
    print(run.id, flush=True)
    console = terminal.stderr()
    end = run.view().ended or {}
    if status == "finished":
        console.print(f"Finished after {end['step']} steps. The model is in {run.model_dir}.", soft_wrap=True)
        return
    if status == "failed":
        raise StudioError(end["what"], f"{end['fix']} The log is {run.log_path}.")
    if status == "interrupted":
        killed = killed_for_memory(run)
        raise StudioError(
            killed.what if killed else "The run was interrupted: its worker ended without a word.",
            f"Its log is {run.log_path}. Go on from the last checkpoint with: python app.py resume {run.id}",
        )
    if status in ("stopped", "paused"):
        console.print(
            f"{status.capitalize()} after {end['step']} steps. Go on with: python app.py resume {run.id}",
            soft_wrap=True,
        )
        raise typer.Exit(1)
    console.print(f"The run goes on by itself. See python app.py runs; its log is {run.log_path}.", soft_wrap=True)
    raise typer.Exit(DETACHED)


def main() -> None:
    """Run the command that ``sys.argv`` asks for."""
    app(prog_name="python app.py")
