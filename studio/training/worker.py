"""One recipe in, one run folder out. Reads top to bottom: recipe, device, model, data, trainer, train, save."""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from studio.recipe import Recipe, Resolved
from studio.recipe.warnings import warnings as recipe_warnings
from studio.runs import EventLog, Run
from studio.runs.feed import fold
from studio.runs.origin import origin_of_recipe, read_origin
from studio.thread_waiting import LoadWatch
from studio.training import failures, lora_init, ranks
from studio.training.device import device_name, pick_device
from studio.training.launch_check import check_launch, examine_files
from studio.training.memory_monitor import Memory, give_back_at_once
from studio.training.progress_events import Progress
from studio.training.run_data import read_rows
from studio.training.saving import put_back_model, save_model
from studio.training.step_count import planned_steps


def train(folder: Path) -> str:
    """Do the run in ``folder`` (from its last whole checkpoint, if it has one) and return its terminal kind.

    Whatever happens, the last line of ``events.jsonl`` says how it ended, unless the process is killed.
    """
    run = Run(Path(folder))
    log = ranks.event_log(run)
    memory, load_watch = Memory(log), LoadWatch()
    if ranks.count() == 1:  # of several ranks the leader is asked
        signal.signal(signal.SIGTERM, lambda *_: run.stop())  # a polite end: the run stops with a checkpoint
    try:
        return _train(run, log, memory, load_watch)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the edge: every failure becomes an event
        memory.close()
        problem, more = failures.explain(error, run, memory)
        print(more["traceback"], file=sys.stderr, flush=True)
        if ranks.count() > 1:
            ranks.report(run, problem, more["traceback"], error)  # the leader knows of the other ranks, too
        else:
            log.write("failed", what=problem.what, fix=problem.fix, **more)
        return "failed"
    finally:
        load_watch.stop()
        memory.close()
        log.close()
        if ranks.is_main_process():
            fold(run)


def _train(run: Run, log: EventLog, memory: Memory, load_watch: LoadWatch) -> str:
    recipe = run.recipe.check()
    put_back_model(run)
    progress = Progress(log)
    give_back_at_once(recipe.model.quantization != "none")

    progress("Starting", 0, 0)
    import datasets
    import transformers

    from studio.models import load, methods, store
    from studio.models.classification import check_lengths, prepare
    from studio.models.initial_adapter import adapter_folder
    from studio.models.processor import processor_name
    from studio.models.weight_check import unexpected_warning
    from studio.training.acceleration.compiled import CompiledLayers
    from studio.training.acceleration.fused_lora import fuse_lora
    from studio.training.acceleration.layer_choices import (
        choose_attention,
        choose_compile,
        choose_kernels,
        choose_layers,
    )
    from studio.training.acceleration.thread_count import ThreadCount
    from studio.training.choices import (
        Choices,
        choose_checkpointing,
        choose_loader,
        choose_padding,
        choose_threads,
        kept_choices,
        say_dtype,
    )
    from studio.training.classification_trainer import build_classifier, same_classes
    from studio.training.event_callback import Stopped
    from studio.training.origin import origin_of
    from studio.training.packing import check_apart
    from studio.training.resume import check_origin, from_first_step, require_inputs, resume_checkpoint
    from studio.training.samples import add_samples
    from studio.training.trainer import build_trainer

    transformers.utils.logging.disable_progress_bar()
    # transformers' and TRL's own way of speaking with each other; nobody who reads the log can mend it
    warnings.filterwarnings("ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning)
    transformers.set_seed(recipe.train.seed)
    device = pick_device(recipe.train.device)
    ranks.begin(device)

    # a resumed run keeps the very base and number format that it began with
    checkpoint = resume_checkpoint(run)
    recipe = recipe if checkpoint else from_first_step(recipe)
    earlier = recipe.resolved if checkpoint else None
    origin = (read_origin(checkpoint) or origin_of_recipe(recipe)) if checkpoint else None
    require_inputs(run, recipe, origin or origin_of_recipe(recipe))
    spec = recipe.model
    if earlier and earlier.model_revision and not earlier.model_revision.startswith("sha256:"):
        spec = spec.model_copy(update={"revision": earlier.model_revision})

    # model files and tokenizer
    with ranks.main_process_first():
        base = store.fetch(spec, progress=progress)
    tokenizer = load.load_tokenizer(base, trust_remote_code=recipe.model.trust_remote_code)
    notes = prepare(tokenizer, None, recipe)
    examine = partial(examine_files, prepare=lambda _: (tokenizer, notes), rows=0)
    check_launch(recipe.model_copy(update={"model": spec}), examine=examine).refuse()

    # data: conversations -> tokens and labels, or texts -> tokens and classes
    data = read_rows(recipe, tokenizer, log, progress)
    examples, held_out, classes = data.examples, data.held_out, data.classes
    rows = data.packed_rows or len(examples)

    # what is trained from, compared with what the checkpoint was made from
    adapter = adapter_folder(recipe) if recipe.model.adapter else None
    made_from = origin_of(recipe, base, store.revision_of(base), adapter, data)
    for change in check_origin(origin, made_from, earlier.accepted if earlier else {}):
        log.write("warning", what=f"Changed since the checkpoint: {change.told()}", fix="", rule="changed")

    # weights and method
    progress("Loading the model", 0, 0)
    choices, asked, processor = Choices(), recipe, processor_name()
    kept = kept_choices(recipe, checkpoint is not None, device_name(device), processor, log)
    dtype = kept.dtype if kept and kept.dtype else methods.training_dtype(recipe, device)
    threads = choose_threads(choices, kept.threads if kept and device == "cpu" else None, log)
    if device == "cpu":
        load_watch.start()  # it needs to know how many threads there are
    longest = max(len(example.input_ids) for example in examples)
    memory.expect(recipe, base, device, dtype, longest)
    say_dtype(choices, recipe, dtype, device)
    recipe = ranks.broadcast(choose_checkpointing(choices, recipe, memory.expected, memory.of))
    model = load.load_model(spec, device=device, dtype=dtype, classes=classes)
    if model.unexpected_weights:
        what, fix = unexpected_warning(model.unexpected_weights, recipe.model.id)
        log.write("warning", what=what, fix=fix, rule="unexpected_weights")
    attention = kept.attention if kept else None
    choose_attention(choices, recipe, model, device, attention or ("sdpa" if ranks.count() > 1 or classes else None))
    choose_kernels(choices, recipe, model, device)
    prepare(tokenizer, model, recipe)
    if classes:
        same_classes(recipe, classes)
        check_lengths(model, tokenizer, [example.input_ids for example in [*examples, *(held_out or [])]])
    model = methods.apply_method(
        model,
        recipe,
        notes.new_token_ids,
        steps=planned_steps(rows, recipe.train, ranks.count()),
        folder=base,
        tokenizer=tokenizer,
    )
    if recipe.train.packing:
        check_apart(model, examples)
    padding_free = choose_padding(choices, recipe, model, examples)
    lora_init.prepare(model, recipe, run, examples, resumed=checkpoint is not None)
    trainable, parameters = methods.count_parameters(model)
    own_passes = recipe.train.fused_passes and recipe.train.distributed == "ddp"
    fused = fuse_lora(model) if own_passes and recipe.method.kind == "lora" else 0

    # train
    build = partial(build_classifier, classes=classes) if classes else build_trainer
    trainer = build(
        run=run,
        recipe=recipe,
        log=log,
        model=model,
        tokenizer=tokenizer,
        examples=examples,
        held_out=held_out,
        device=device,
    )
    trainer.padding_free = padding_free
    trainer.origin = made_from
    if device == "cpu" and ranks.count() == 1:
        trainer.add_callback(ThreadCount(trainer, load_watch))
    passes = choose_layers(choices, recipe, model, device)
    compiled = choose_compile(choices, recipe, CompiledLayers(model), kept.compiled if kept else None)
    trainer.args.dataloader_num_workers = choose_loader(choices, recipe, trainer.some_batch, device)
    if fused:
        choices.say("LoRA pass", f"fused in {fused} layers", "No dropout, quantisation or variant stands in its way.")

    resolved = Resolved(
        model_revision=store.revision_of(base),
        data_fingerprint=data.fingerprint,
        device=device_name(device),
        dtype=dtype,
        attention=choices.chosen("attention"),
        compiled=compiled,
        processor=processor,
        threads=threads,
        choices=choices.others(),
        versions=made_from["versions"],
    )
    ranks.check_same("rows", f"{resolved.data_fingerprint} {len(examples)}")
    if earlier:  # what the run was begun with stays as it is
        known = {name: value for name, value in earlier.model_dump().items() if value is not None}
        resolved = resolved.model_copy(update=known)
    if ranks.is_main_process():
        _record(run, asked, resolved)

    add_samples(trainer, run, recipe, log, tokenizer, held_out, data.held_out_rows)
    log.write(
        "started",
        max_steps=trainer.planned_steps(),
        rows=len(examples),
        packed_rows=data.packed_rows,
        held_out_rows=len(held_out or []),
        trained_tokens=sum(sum(1 for label in e.labels if label != -100) for e in examples),
        tokens=sum(len(e.input_ids) for e in examples),
        trainable_parameters=trainable,
        total_parameters=parameters,
        device=device_name(device),
        threads=threads,
        processor=processor,
        processes=ranks.count(),
        dtype=dtype,
        notes=[*data.not_used.get("notes", []), *notes],
        unused_columns=data.not_used.get("unused_columns", []),
        splits=data.not_used.get("splits", []),
        classes=list(classes.names) if classes else None,
        fused_lora_layers=fused,
        choices=choices.told,
        estimated_memory_bytes=memory.expected["estimated_memory_bytes"],
        estimated_disk_bytes=memory.disk(run.folder, trainer.planned_steps()),
        resumed_from=checkpoint.name if checkpoint else None,
        data_fingerprint=data.fingerprint,
    )
    for warning in [] if checkpoint else recipe_warnings(recipe, trainer.planned_steps()):
        log.write("warning", what=warning.what, fix=warning.fix, code=warning.code)
    datasets.disable_progress_bars()
    try:
        with nullcontext() if compiled else passes():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Stopped:
        print(f"The run was {trainer.ending} before its first step.", flush=True)
    if trainer.ending == "paused":
        log.write("paused", step=trainer.state.global_step, **memory.taken(device))
        return "paused"
    if recipe.train.keep_best:
        trainer.take_best()

    # save
    progress("Saving the model", 0, 0)
    save_model(run, trainer, tokenizer, classes)
    if classes and held_out is not None and ranks.is_main_process():
        trainer.write_predictions([row for row in data.held_out_rows if row["row"] not in data.unused])
    kind = trainer.ending or "finished"
    ranks.end()
    log.write(kind, step=trainer.state.global_step, **memory.taken(device), **trainer.final_metrics)
    return kind


def _record(run: Run, recipe: Recipe, resolved: Resolved) -> None:
    """Write what the run really uses into its recipe."""
    recipe.model_copy(update={"resolved": resolved}).save(run.folder / "recipe.yaml")
