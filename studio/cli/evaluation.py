"""Commands that tell how good a run is: evaluate, suite, tasks, report, judge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from studio.cli import terminal
from studio.cli.arguments import Json, RunId
from studio.errors import StudioError
from studio.runs import Run

app = typer.Typer(rich_markup_mode=None)
Own = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME=REGEX", help="A metric of your own: answers that match; {reference} in it."),
]


@app.command()
def evaluate(run: RunId, metric: Own = None, as_json: Json = False) -> None:
    """Score a run's base and tuned model on the held-out rows; of a classifier, the tuned model and the commonest
    class."""
    opened, own = Run.open(run), _own(metric)
    with terminal.working() as report:
        from studio.evaluation import evaluate as evaluate_run
        from studio.inference import Engine

        scores = evaluate_run(opened, Engine(), report, own)
    if as_json:
        terminal.print_json(scores)
    else:
        console = terminal.stdout()
        for table in terminal.class_tables(scores) if "classes" in scores else [terminal.scores_table(scores)]:
            console.print(table)


@app.command()
def suite(
    name: Annotated[
        str, typer.Argument(metavar="SUITE", help="general, another built-in suite, or a file of prompts.")
    ],
    models: Annotated[list[str], typer.Argument(metavar="RUN|base ...", help="Runs, base, or base:MODEL.")],
    kind: Annotated[str, typer.Option("--to", help="csv, jsonl, md or llm-comparator, on stdout.")] = "",
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = 256,
    metric: Own = None,
    as_json: Json = False,
) -> None:
    """Ask models the prompts of a suite, in batches. Ctrl-C pauses; the same command continues."""
    from studio.evaluation.suites import load_suite

    asked, own = load_suite(name), _own(metric)
    with terminal.working() as report:
        from studio.evaluation.suite_export import FORMATS, export, rows
        from studio.evaluation.suite_run import run_suite
        from studio.inference import Engine, Sampling

        if kind and kind not in FORMATS:
            raise StudioError(f"There is no format {kind!r}.", f"Use one of: {', '.join(FORMATS)}.")
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
        try:
            done = run_suite(asked, models, Engine(), sampling=sampling, progress=report)
        except KeyboardInterrupt as error:
            raise StudioError(
                "Paused.", "The answers so far are kept; the same command continues from there."
            ) from error
    if kind:
        sys.stdout.write(export(done, kind))
    elif as_json:
        tags = {tag: done.figures(tag, own) for tag in asked.tags}
        terminal.print_json(
            {"suite": asked.name, "figures": done.figures(own=own), "tags": tags, "answers": rows(done)}
        )
    else:
        terminal.stdout().print(suite_table(done, own))


@app.command()
def report(
    run: RunId,
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", help="A suite or a file of prompts; default: those that suit the recipe."),
    ] = None,
    no_suites: Annotated[bool, typer.Option("--no-suites", help="Ask no suite: the held-out rows alone.")] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a run in full and write its report: held-out rows, prompt suites, what was forgotten or memorised.

    The path of the page is printed on stdout; the figures go into the model card too.
    """
    from studio.evaluation.report import Told

    if no_suites and suites:
        raise StudioError("--no-suites and --suite exclude each other.", "Use one of the two.")
    opened = Run.open(run)
    told = Told(opened)
    with terminal.working() as shown:

        def tell(what: str, done: int, total: int) -> None:
            shown(what, done, total)
            told(what, done, total)

        try:
            made = make_report(opened, tell, [] if no_suites else suites or None)
        except StudioError as error:
            told.ended(error)
            raise
        except KeyboardInterrupt:
            told.ended()
            raise
        except Exception as error:  # the page says so; the traceback goes on
            told.ended(StudioError(f"The evaluation failed: {type(error).__name__}.", "Its log has the details."))
            raise
    told.ended()
    if as_json:
        terminal.print_json(made)
    else:
        print(opened.folder / "report.html")


@app.command()
def tasks(
    run: RunId,
    names: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks of lm-eval, such as arc_easy.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; default: all.")] = None,
    folder: Annotated[Path | None, typer.Option(help="A folder with task files (YAML) of your own.")] = None,
    chat: Annotated[bool, typer.Option(help="Put prompts through the chat template.")] = True,
    as_json: Json = False,
) -> None:
    """Score a run's base and tuned model on public benchmarks, by lm-eval (pip install lm-eval)."""
    opened = Run.open(run)
    with terminal.working() as report:
        from studio.evaluation.tasks import run_tasks
        from studio.inference import Engine

        found = run_tasks(opened, names, Engine(), limit=limit, folder=folder, chat=chat, progress=report)
    if as_json:
        terminal.print_json(found)
        return
    table = terminal.Table("Task", "Metric", "Base", "Tuned", title="lm-eval, with standard errors")
    for task, metrics in found.items():
        for metric, entry in metrics.items():
            cells = [_with_error(entry.get(side), entry["stderr"].get(side)) for side in ("base", "tuned")]
            table.add_row(task, metric, *cells)
    terminal.stdout().print(table)


def _with_error(value: float | None, stderr: float | None) -> str:
    return "" if value is None else f"{value:.4f}" + (f" ± {stderr:.4f}" if stderr else "")


def make_report(run: Run, progress: Any, suites: list[str] | None = None) -> dict[str, Any]:
    """A run's report, with its figures in the model card."""
    from studio.evaluation.report import report as evaluate_in_full
    from studio.inference import Engine
    from studio.training.model_card import write_card

    made = evaluate_in_full(run, Engine(), progress, suites)
    write_card(run.model_dir, run)
    return made


def suite_table(done: Any, own: list[Any]) -> Any:
    """A suite's figures, a line for each tag."""
    names = list(done.answers)
    table = terminal.Table("Prompts", *names, title=f"{done.suite.name}: checks passed, with 95 % intervals")
    for tag in (None, *done.suite.tags):
        figures = done.figures(tag, own)
        cells = []
        for name in names:
            share, around = figures["means"][name].get("passed"), figures["intervals"][name].get("passed")
            ends = f" ({around[0]:.0%} to {around[1]:.0%})" if around else ""
            cells.append("" if share is None else f"{share:.1%}{ends}")
        table.add_row(tag or "all", *cells)
    return table


def _own(given: list[str] | None) -> list[Any]:
    """The metrics that a person has written.

    Raises:
        StudioError: one is not NAME=REGEX, or no regular expression.
    """
    from studio.evaluation.metrics import METRICS, custom

    found = []
    for text in given or []:
        name, _, pattern = text.partition("=")
        if not name.isidentifier() or not pattern or name in METRICS:
            raise StudioError(f"{text!r} is no metric.", "Write NAME=REGEX, with a name that is not taken.")
        found.append(custom(name, pattern))
    return found


@app.command()
def judge(
    name: Annotated[str, typer.Argument(metavar="SUITE", help="general, another built-in one, or a file.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL", help="Two of: runs, base, base:MODEL.")],
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint, up to /v1; its key in JUDGE_API_KEY.")] = "",
    model: Annotated[
        str, typer.Option("--judge", help="The judge's name there; without --url a run or base:MODEL.")
    ] = "",
    prompt: Annotated[
        Path | None, typer.Option(help="A file with the judge's prompt; --show-prompt prints ours.")
    ] = None,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print the judge's prompt, and do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let a language model judge two models' answers to a suite, with the order flipped in half of the cases."""
    from studio.evaluation.judge import PROMPT, endpoint, local, replies_path
    from studio.evaluation.judge import judge as ask_judge
    from studio.evaluation.suites import load_suite

    text = _prompt_of(prompt) if prompt else PROMPT
    if show_prompt:
        print(text)
        return
    if len(set(models)) != 2 or not model:
        raise StudioError("A judge compares two different models.", "Name two, and the judge with --judge.")
    asked = load_suite(name)
    remote = endpoint(url, model) if url else None
    with terminal.working() as report:
        from studio.evaluation.suite_run import run_suite
        from studio.inference import Engine, Target

        engine = Engine()
        try:
            done = run_suite(asked, models, engine, progress=report)
            first, second = done.answers
            asker = f"{url} {model}" if url else engine.identity(Target.parse(model))
            kept = replies_path(done, first, second, asker, text)
            ask = remote or local(model, engine, report)
            found = ask_judge(done, first, second, ask, prompt=text, progress=report, kept=kept)
        except KeyboardInterrupt as error:
            raise StudioError(
                "Paused.", "Answers and verdicts so far are kept; the same command continues from there."
            ) from error
    if as_json:
        terminal.print_json(found)
        return
    counts = f"{found['prompts']} prompts: {found['ties']} ties, {found['no_verdict']} no verdict"
    counts += f", {found['failed']} no reply" if found["failed"] else ""
    table = terminal.Table("Model", "Wins", "Score", title=counts)
    for each, share in found["win_rates"].items():
        low, score, high = found["scores"][each]
        table.add_row(each, f"{share:.1%}", f"{score:.0f} ({low:.0f} to {high:.0f})")
    terminal.stdout().print(table)
    if found["p"] is not None:
        terminal.stdout().print(f"Chance alone would set them so far apart with p = {found['p']:.3g}.")
        terminal.stdout().print(f"The answer that was shown first won {found['first_side']:.0%}; fair is 50 %.")


def _prompt_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # not there, not UTF-8, a name that no file system takes
        raise StudioError(f"{str(path)[:300]!r} cannot be read: {str(error)[:300]}.", "Name a text file.") from error
