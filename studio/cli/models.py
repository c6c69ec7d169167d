"""Commands about models: compare, merge, fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from studio.cli import terminal
from studio.cli.arguments import Json, RunId
from studio.errors import StudioError
from studio.models.builtin import NAME as BUILTIN_MODEL
from studio.runs import Run

app = typer.Typer(rich_markup_mode=None)


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
        Path | None, typer.Option(help="A file of prompts: one a line, a .json list, .jsonl or .csv with `prompt`.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens of this total probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from this many of the most likely tokens; 0 = all.")] = 0,
    min_p: Annotated[
        float, typer.Option(help="Keep the tokens at least this share as likely as the likeliest; 0 keeps all.")
    ] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes repetition less likely.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = 256,
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
    computed: dict[str, dict[str, Any]] = {}
    with terminal.working() as report:
        answers = compare_models(Engine(), models, asked, sampling, report, computed)
    for name, how in computed.items():
        said = f"{name}: {how['dtype']}, attention {how['attention']}, {how['threads']} threads, {how['processor']}"
        terminal.stderr().print(said, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        terminal.print_json(answers)
        return
    console = terminal.stdout()
    for question, given in answers.items():
        console.print(terminal.answers_table(given, question))


def _read_prompts(path: Path) -> list[str]:
    """The prompts in a file, by the reader of suites.

    Raises:
        StudioError: it cannot be read, or a row is not a single prompt.
    """
    from studio.evaluation.prompt_files import read_prompt_rows

    prompts = []
    for where, row in read_prompt_rows(path):
        prompt = row.get("prompt") if isinstance(row, dict) and not row.get("system") else row
        if not isinstance(prompt, str) or not prompt.strip():
            raise StudioError(
                f"{where}: this is not a single prompt.",
                'Use texts, or objects such as {"prompt": "..."}; `python app.py suite` asks conversations.',
                code="not-a-prompt",
            )
        prompts.append(prompt)
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
def fetch(
    model: Annotated[str, typer.Argument(help="builtin/NAME, a Hub id, a folder or a .gguf file.")] = BUILTIN_MODEL,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option(help="Fetch the model's own Python code too. It runs only once it is allowed: see `trust`.")
    ] = False,
) -> None:
    """Fetch a base model ahead of time. The last line on stdout is its folder."""
    from studio.models.fetch import main as fetch_model

    if not model.strip():
        raise StudioError("No model is named.", f"Name one, for example {BUILTIN_MODEL}.")
    options = ["--revision", revision] if revision else []
    options += ["--trust-remote-code"] if trust_remote_code else []
    raise typer.Exit(fetch_model([*options, "--", model]))
