"""The commands of ``python app.py``. The one place, besides the page, where a ``StudioError`` becomes a message.

Results go to stdout and everything else to stderr. Whatever is heavy is imported inside the command that needs it, so
that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from studio.cli import terminal
from studio.cli.arguments import Json, Overrides, RecipePath, RunId, TrustCode
from studio.cli.data import app as data_commands
from studio.cli.evaluation import app as evaluation_commands
from studio.cli.export import app as export_commands
from studio.cli.follow import launch_and_follow
from studio.cli.models import app as model_commands
from studio.cli.runs import app as run_commands
from studio.cli.trust import app as trust_command
from studio.cli.trust import open_recipe
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.recipe.reference import settings
from studio.runs import Run
from studio.runs.exit_reason import killed_for_memory
from studio.runs.label import Label
from studio.training.extend import extend_run, plan_extension
from studio.training.resume import ResumePlan, check_plan, plan_resume, resume_text, with_accepted

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

for commands in (data_commands, model_commands, run_commands, evaluation_commands, export_commands, trust_command):
    app.add_typer(commands)


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


@app.command(
    epilog=f"Fields of a recipe, explained in docs/recipe.md: {', '.join(setting.path for setting in settings())}."
)
def train(recipe: RecipePath, overrides: Overrides = None, trust_remote_code: TrustCode = False) -> None:
    """Train a recipe. The last line on stdout is the run's id; the exit code is 0 only if the run finished.

    Ctrl-C asks the run to stop with a checkpoint and a usable model; a second one leaves it to itself.
    """
    _launch_and_follow(Run.create(_launchable(open_recipe(recipe, overrides, trust_remote_code))))


@app.command()
def create(recipe: RecipePath, overrides: Overrides = None, trust_remote_code: TrustCode = False) -> None:
    """Make the run of a recipe without starting it; prints its folder. For `launch-script`: no studio starts it."""
    made = Run.create(open_recipe(recipe, overrides, trust_remote_code))
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
def resume(
    run: RunId,
    epochs: Annotated[float | None, typer.Option(help="Continue a run for this many more epochs.", min=0)] = None,
    steps: Annotated[int | None, typer.Option(help="Continue a run for this many more steps.", min=1)] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Learning rate of a continued run: restart begins its schedule anew for the added steps, extend "
            "stretches it over the whole run. A finished run restarts, any other extends.",
            metavar="[restart|extend]",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate of a continued run; without it, that of the recipe.")
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Resume although the data or settings have changed; the changes are listed."
        ),
    ] = False,
) -> None:
    """Resume a run from its last checkpoint. With --epochs or --steps, continue a finished run.

    What differs from what the checkpoint was made from is named, and refused without --accept-changes.
    """
    opened = Run.open(run)
    if epochs is not None or steps is not None:
        if schedule not in (None, "restart", "extend"):
            raise StudioError(f"--schedule is {schedule!r}.", "Use restart or extend.")
        extension = plan_extension(opened, epochs=epochs, steps=steps, schedule=schedule, learning_rate=learning_rate)
        _tell_changes(extension.plan)
        extend_run(opened, extension, accept_changes)
        terminal.stderr().print(extension.told(), markup=False, soft_wrap=True)
    else:
        if schedule or learning_rate is not None:
            raise StudioError("--schedule and --learning-rate belong to --epochs or --steps.", "Give one of these too.")
        if opened.status not in ("paused", "stopped", "failed", "interrupted"):
            opened.reopen()  # says why not
        plan = plan_resume(opened)
        _tell_changes(plan)
        accepted = check_plan(plan, accept_changes)
        if plan.checkpoint is None:
            terminal.stderr().print("There is no checkpoint: the run begins at its first step.", soft_wrap=True)
        opened.reopen(with_accepted(opened.recipe, accepted))
    _launch_and_follow(opened)


def _tell_changes(plan: ResumePlan) -> None:
    for change in plan.changes:
        terminal.stderr().print(f"Changed since the checkpoint: {change.told()}", markup=False, soft_wrap=True)


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
    recipe = open_recipe(opened.folder / "recipe.yaml", overrides)
    if fit:
        from studio.training.oom_remedies import ran_out, relieved_run

        told = ran_out(opened, opened.status, opened.view())
        if told is None:
            raise StudioError(f"The run {opened.id} did not run out of memory.", "Leave out --fit.")
        recipe, steps = relieved_run(recipe.check(), told)
        for step in steps:
            terminal.stderr().print(f"Changed: {step.title}", markup=False, soft_wrap=True)
    repeated = None if overrides or fit else recipe.resolved  # changed settings may need another way to compute
    _launch_and_follow(Run.create(_launchable(recipe), Label(parent=opened.id), repeated))


@app.command()
def estimate(
    recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, trust_remote_code: TrustCode = False
) -> None:
    """Estimate memory, trained parameters and optimizer steps on this machine, without loading any weights."""
    checked = open_recipe(recipe, overrides, trust_remote_code)
    with terminal.working() as report:
        from studio.training.run_estimate import forecast

        expected = forecast(checked, report)
    if as_json:
        terminal.print_json(expected.to_dict())
        return
    console = terminal.stdout()
    console.print(terminal.estimate_table(expected.to_dict()))
    for note in expected.notes:
        console.print(note, markup=False, soft_wrap=True)


def _launchable(recipe: Recipe) -> Recipe:
    """The recipe, once its model is on this disk and it has passed the check that the page and the worker use.

    Raises:
        StudioErrors: it cannot be launched.
        StudioError: the model cannot be fetched.
    """
    from studio.models import store
    from studio.training.launch_check import check_launch

    recipe.check()
    if store.local_folder(recipe.model) is None:  # a GGUF file is converted here, also after an attempt that failed
        with terminal.working() as report:
            store.fetch(recipe.model, progress=report)
    check_launch(recipe).refuse()
    return recipe


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
            killed.what if killed else "The run was interrupted. The worker exited without reporting an error.",
            f"Its log is {run.log_path}. {resume_text(run)} Command: python app.py resume {run.id}",
        )
    if status in ("stopped", "paused"):
        console.print(
            f"{status.capitalize()} after {end['step']} steps. Resume with: python app.py resume {run.id}",
            soft_wrap=True,
        )
        raise typer.Exit(1)
    console.print(
        f"The run continues in the background. See python app.py runs; its log is {run.log_path}.", soft_wrap=True
    )
    raise typer.Exit(DETACHED)


def main() -> None:
    """Run the command that ``sys.argv`` asks for."""
    app(prog_name="python app.py")
