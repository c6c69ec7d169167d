"""The sections of a recipe: every setting once, with its help, default, bounds, unit and source.

The form, ``--help``, the reference page (``docs/recipe.md``) and the checks before a launch are derived from these
types. Where transformers, TRL or PEFT has a name for a setting, that is the name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from studio.recipe.settings import Section, setting

Format = Literal[
    "auto",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "question_answer",
    "multiple_choice",
    "text",
    "preference",
    "unpaired_preference",
    "classification",
    "tokenized",
]


def _as_word(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # YAML's on and off are booleans


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]

CHAT_TEMPLATES = ("auto", "chatml", "llama3", "gemma", "mistral", "phi", "alpaca", "plain")


def is_inline(chat_template: str) -> bool:
    """Whether ``data.chat_template`` is a template itself, written into the recipe."""
    return "{{" in chat_template or "{%" in chat_template


def is_template_file(chat_template: str) -> bool:
    """Whether ``data.chat_template`` names a file."""
    return chat_template not in CHAT_TEMPLATES and not is_inline(chat_template)


class ModelSpec(Section):
    """Which base model, and how its weights are held in memory."""

    id: str = setting(
        "builtin/smollm2-135m-instruct",
        "The base model: builtin/NAME, a Hugging Face Hub id, a local Transformers model folder, or a .gguf file.",
        min_length=1,
    )
    revision: str | None = setting(
        None, "Branch, tag or commit on the Hub; empty takes the newest and records which it was.", advanced=True
    )
    task: Literal["causal_lm", "seq_cls"] = setting(
        "causal_lm",
        "The task: causal_lm for text generation (chat, instructions, code), seq_cls for text classification.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "Number format of the base weights; auto takes bfloat16 where the device computes it fast, otherwise float32.",
        advanced=True,
    )
    attn_implementation: Literal["auto", "sdpa", "sdpa_float32", "eager", "flash_attention_2"] = setting(
        "auto",
        "How attention is computed in training; auto tries PyTorch's kernel (sdpa) in the base's format and in float32 "
        "on a CPU, and takes FlashAttention on a GPU that has it.",
        advanced=True,
        link="https://huggingface.co/docs/transformers/attention_interface",
    )
    quantization: Literal["none", "nf4", "fp4", "int8"] = setting(
        "none",
        "Store the frozen base weights in 4 bits (nf4, fp4) or 8 bits (int8) to save memory; with adapters only.",
        link="https://arxiv.org/abs/2305.14314",
    )
    double_quantization: bool = setting(
        True, "With 4 bits: store the scales in 8 bits, too, which saves another 0.4 bits a weight.", advanced=True
    )
    adapter: str | None = setting(
        None,
        "Continue from an existing adapter: a run's id, a folder, or a Hub id. It must be of the same method.",
        advanced=True,
    )
    trust_remote_code: bool = setting(
        False,
        "Use Python code that comes with this one model. Such code can do anything on this machine: it runs only after "
        "a person has allowed the very files, on the page or with --trust-remote-code.",
        advanced=True,
    )


class SourceSpec(Section):
    """Where rows come from, and which column plays which part."""

    source: str = setting(
        "builtin/support-triage",
        "The dataset: builtin/NAME, a Hugging Face Hub id, a file (JSON, JSONL, CSV, TSV, Parquet, Arrow, plain text, "
        "Markdown; text files also as .gz or .zst), or a folder of such files.",
        min_length=1,
    )
    config: str | None = setting(None, "The Hub dataset's configuration (subset), if it has several.", advanced=True)
    data_dir: str | None = setting(None, "A folder in the Hub dataset, if only that is wanted.", advanced=True)
    revision: str | None = setting(None, "Branch, tag or commit of the Hub dataset.", advanced=True)
    streaming: bool = setting(
        True,
        "Read a Hub dataset row by row, which fetches no more than is used; off downloads it whole and keeps it.",
        advanced=True,
    )
    format: Format = setting("auto", "The shape of a row; auto looks at the columns and says what it found.")
    columns: dict[str, str] = setting(
        {},
        "Which column plays which part, for example {prompt: question, completion: answer}; a part that is not named "
        "is as found, and one that is named with nothing is left out.",
    )
    split: str = setting(
        "train",
        "The split to train on, where the dataset has several. In a folder the names of files and folders say which "
        "split a file belongs to (train, validation, test, dev, eval and the like).",
        min_length=1,
    )
    skip_rows: int = setting(0, "Number of rows to skip at the start.", unit="rows", ge=0, advanced=True)
    max_rows: int = setting(0, "Use at most this many rows after skipping; 0 = all.", unit="rows", ge=0, advanced=True)


class MixSpec(SourceSpec):
    """One more source that is trained on together with the first."""

    source: str = setting(..., "As data.source.", min_length=1)
    weight: float = setting(
        1.0,
        "How often each of its rows is used in an epoch: 0.5 takes half of the rows, 2 each row twice.",
        gt=0,
        le=100,
        step=0.1,
    )


class DataSpec(SourceSpec):
    """What is trained on, and how a row becomes tokens and a loss mask."""

    mix: list[MixSpec] = setting(
        [],
        "Other datasets to mix in, each with a weight and the fields of a source: [{source: owner/name, weight: 0.5}].",
        advanced=True,
    )
    eval_split: str = setting(
        "auto",
        "The split that `evaluate` scores; auto takes the dataset's test split, or else the held-out rows.",
        advanced=True,
    )
    system_prompt: str | None = setting(
        None, "A system message put before conversations that have none of their own.", advanced=True
    )
    chat_template: str = setting(
        "auto",
        "auto takes the model's own template (ChatML if it has none); or chatml, llama3, gemma, mistral, phi, alpaca, "
        "plain; or the path of a .jinja file; or the template itself.",
        min_length=1,
        max_length=200_000,
        encoder=True,
    )
    reasoning: Literal["keep", "drop"] = setting(
        "keep", "What the assistant thinks before it answers (<think>): train on it, or leave it out.", advanced=True
    )
    train_on: Literal["assistant", "last", "all"] = setting(
        "assistant",
        "Which tokens carry the loss: every assistant turn, only the last assistant turn, or all tokens.",
        encoder=True,
    )
    split_turns: bool = setting(
        False,
        "One example per reply: make an example of each assistant turn, in exactly the context that the model sees at "
        "inference. For chat templates that write earlier turns differently, for example without their reasoning.",
        advanced=True,
        encoder=True,
    )
    special_tokens_in_text: Literal["special", "text"] = setting(
        "special",
        "What a special token that is written inside a message becomes: special keeps it as that token, which may end "
        "a turn; text tokenises it as ordinary text. Either way such rows are reported.",
        advanced=True,
        encoder=True,
    )
    max_length: int = setting(512, "Longer rows are truncated.", unit="tokens", ge=8, le=1_048_576, encoder=True)
    invalid_rows: Literal["ask", "drop", "stop"] = setting(
        "ask",
        "Rows that cannot be trained on: drop leaves them out, stop trains nothing until they are fixed. With ask the "
        "page asks before a launch, and the terminal leaves out rows without an answer and stops at rows that the chat "
        "template refuses.",
        advanced=True,
        encoder=True,
    )
    holdout: float = setting(
        0.1,
        "Fraction of the rows held out to compute the validation loss; 0 = none.",
        ge=0,
        le=0.5,
        step=0.01,
    )
    holdout_rows: int = setting(
        0, "Number of rows to hold out, instead of a fraction; 0 uses the fraction.", unit="rows", ge=0, advanced=True
    )
    holdout_column: str | None = setting(
        None,
        "Hold out the rows in which this column is true, test, validation, valid, dev or eval, instead of a share.",
        advanced=True,
    )
    holdout_source: str | None = setting(
        None, "Hold out the rows of this second file or dataset instead of a share of the first.", advanced=True
    )


ENCODER_SETTINGS = tuple(name for name, field in DataSpec.model_fields.items() if field.json_schema_extra["encoder"])
"""The settings of ``data`` that change how a conversation becomes an example, not the conversation itself."""


class TrainSpec(Section):
    """How the training itself goes."""

    num_train_epochs: float = setting(2, "Passes over the training data.", unit="epochs", gt=0, le=1000, step=0.5)
    max_steps: int = setting(-1, "Stop after this many optimizer steps; -1 trains for all epochs.", unit="steps", ge=-1)
    per_device_train_batch_size: int = setting(
        8, "Rows that go through the model at once; more is faster and takes more memory.", unit="rows", ge=1, le=4096
    )
    per_device_eval_batch_size: int = setting(
        8, "Rows at once while the validation loss is measured.", unit="rows", ge=1, le=4096, advanced=True
    )
    gradient_accumulation_steps: int = setting(
        1, "Batches added up before one optimizer step: a larger effective batch at no extra memory.", ge=1, le=4096
    )
    learning_rate: float = setting(
        1.0e-3,
        "Size of the optimizer's steps; each method has its usual range.",
        gt=0,
        le=1,
        step="factor",
    )
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = setting(
        "cosine",
        "How the learning rate changes over the run; warmup_stable_decay (WSD) rises, stays, and falls at the end.",
        advanced=True,
    )
    warmup_steps: int = setting(
        5, "Steps over which the learning rate rises from 0.", unit="steps", ge=0, advanced=True
    )
    decay_share: float = setting(
        0.2,
        "With warmup_stable_decay: the share of the steps over which the learning rate falls at the end.",
        gt=0,
        le=1,
        advanced=True,
        link="https://arxiv.org/abs/2404.06395",
    )
    weight_decay: float = setting(
        0.0, "Pull of the trained weights towards 0 at each step.", ge=0, le=1, advanced=True, step=0.01
    )
    adam_beta1: float = setting(
        0.9,
        "Adam and Lion: weight of the past in the mean of the gradients at each step.",
        ge=0,
        lt=1,
        step=0.01,
        advanced=True,
    )
    adam_beta2: float = setting(
        0.999,
        "Adam and Lion: weight of the past in the mean of their squares; 0.95 to 0.99 follows faster in short runs.",
        ge=0,
        lt=1,
        step=0.001,
        advanced=True,
    )
    max_grad_norm: float = setting(
        1.0, "Longer gradients are scaled down to this norm; 0 turns it off.", ge=0, advanced=True, step=0.1
    )
    optim: Literal[
        "adamw_torch_fused",
        "adamw_torch",
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adafactor",
        "lion_32bit",
        "lion_8bit",
        "paged_lion_32bit",
        "paged_lion_8bit",
        "sgd",
        "galore_adamw",
        "apollo_adamw",
    ] = setting(
        "adamw_torch_fused",
        "The optimizer. Fused AdamW updates all numbers in one pass. Those with 8bit keep their state in a quarter of "
        "the memory, paged ones move it out of a full GPU; Lion wants a third to a tenth of AdamW's learning rate; "
        "GaLore and Apollo are for full tuning.",
        advanced=True,
        link="https://huggingface.co/docs/transformers/optimizers",
    )
    neftune_noise_alpha: float = setting(
        0,
        "NEFTune: noise on the embeddings while training, which can make answers better; 5 is usual, 0 turns it off.",
        ge=0,
        le=1000,
        advanced=True,
        link="https://arxiv.org/abs/2310.05914",
    )
    label_smoothing_factor: float = setting(
        0,
        "Give this share of the target to all other tokens, which makes the model less sure of itself.",
        ge=0,
        lt=1,
        advanced=True,
        link="https://arxiv.org/abs/1512.00567",
    )
    gradient_checkpointing: bool = setting(
        False,
        "Compute activations again in the backward pass instead of keeping them: less memory, about a third slower.",
        advanced=True,
    )
    checkpoint_when_needed: bool = setting(
        True,
        "Turn gradient checkpointing on by itself where the memory estimate says that the run does not fit without it.",
        advanced=True,
    )
    dataloader_num_workers: int = setting(
        -1,
        "Processes that put batches together beside the one that trains; -1 lets the studio choose: none on a CPU, and "
        "on a GPU only where a batch takes long.",
        ge=-1,
        le=64,
        advanced=True,
    )
    group_by_length: bool = setting(
        True, "Put rows of similar length into one batch, so that little is spent on padding.", advanced=True
    )
    packing: bool = setting(
        False,
        "Put short rows one behind another into rows of data.max_length tokens, each seeing only itself: nothing is "
        "spent on padding, and a batch has more rows in it, so that there are fewer steps.",
        advanced=True,
        link="https://arxiv.org/abs/2404.10830",
    )
    padding_free: Switch = setting(
        "auto",
        "Give the model the rows of a batch one behind another, each seeing only itself, instead of padding them; auto "
        "does it with FlashAttention, which skips what other rows would see. The steps and the loss are the same.",
        advanced=True,
        link="https://huggingface.co/blog/packing-with-FA2",
    )
    fused_passes: bool = setting(
        True,
        "Compute LoRA and DoRA layers, and on a CPU norms, rotary positions and gated layers, in passes that keep less "
        "and give the same numbers.",
        advanced=True,
    )
    use_liger_kernel: Switch = setting(
        "auto",
        "Compute norms, rotary positions and gated layers by Liger's kernels; auto takes them on a GPU where the "
        "package liger-kernel is installed and knows the architecture.",
        advanced=True,
        link="https://arxiv.org/abs/2410.10989",
    )
    torch_compile: Switch = setting(
        "auto",
        "Compile the repeated layers before training, which takes a minute or more and pays in long runs at best; auto "
        "leaves it off.",
        advanced=True,
        link="https://docs.pytorch.org/tutorials/recipes/regional_compilation.html",
    )
    seed: int = setting(0, "The same seed on the same machine gives the same run.", ge=0, le=2**32 - 1)
    logging_steps: int = setting(1, "Log the training loss every N steps.", unit="steps", ge=1, advanced=True)
    eval_steps: int = setting(10, "Compute the validation loss every N steps; 0 = only at the end.", unit="steps", ge=0)
    save_steps: int = setting(50, "Write a checkpoint every N steps; 0 = only at the end.", unit="steps", ge=0)
    save_minutes: float = setting(
        0.0, "Write a checkpoint also when the last one is so old; 0 goes by steps alone.", unit="minutes", ge=0
    )
    early_stopping_patience: int = setting(
        0,
        "Stop when the validation loss has not improved for N evaluations; 0 = never stop early.",
        ge=0,
        le=1000,
        advanced=True,
    )
    keep_best: bool = setting(
        False,
        "Keep the weights with the lowest validation loss, not the last ones; each new best becomes a checkpoint.",
        advanced=True,
    )
    save_total_limit: int = setting(2, "Number of checkpoints to keep.", ge=1, le=1000, advanced=True)
    sample_prompts: list[str] = setting(
        [],
        "Questions that the model answers at each validation, so that you see it learn; empty takes held-out rows.",
        lines=True,
        advanced=True,
    )
    sample_count: int = setting(
        2,
        "How many held-out rows it answers then, if no questions are given; 0 turns the samples off.",
        unit="rows",
        ge=0,
        le=32,
        advanced=True,
    )
    sample_tokens: int = setting(
        32,
        "Maximum length of such a sample; longer ones take more time.",
        unit="tokens",
        ge=1,
        le=2048,
        advanced=True,
    )
    memory_limit_gb: float = setting(
        0,
        "End the run when the model and the training take more memory than this (of the GPU, if that trains), so that "
        "it cannot take all of a machine that is shared; 0 sets no limit.",
        unit="GB",
        ge=0,
        le=100_000,
        advanced=True,
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "Where to train; auto takes the GPU if there is one.", advanced=True
    )
    num_processes: int = setting(
        1,
        "How many processes train together, each with per_device_train_batch_size rows of a step: one for each GPU, or "
        "on a CPU each with a share of the cores.",
        ge=1,
        le=64,
        advanced=True,
    )
    distributed: Literal["ddp", "fsdp", "deepspeed"] = setting(
        "ddp",
        "With several processes: ddp keeps the whole model in each; fsdp and deepspeed (ZeRO-2) spread it over GPUs.",
        advanced=True,
        link="https://huggingface.co/docs/transformers/perf_train_gpu_many",
    )
    report_to: Literal["none", "trackio", "tensorboard", "wandb"] = setting(
        "none",
        "Where else to send the metrics; the run folder always has them. The tracker has to be installed.",
        advanced=True,
        link="https://huggingface.co/docs/transformers/main_classes/callback",
    )


class Resolved(Section):
    """What a run really used, written by the worker: enough to run it again years later."""

    model_revision: str | None = setting(None, "Commit or file hash of the base model.")
    data_fingerprint: str | None = setting(None, "sha256 of the canonical conversations that were trained on.")
    device: str | None = setting(None, "The device that trained.")
    dtype: str | None = setting(None, "Number format of the base weights.")
    attention: str | None = setting(None, "The kernel that computes attention.")
    compiled: bool | None = setting(None, "Whether the layers train by compiled code.")
    processor: str | None = setting(None, "The model of the processor, with the instructions that PyTorch uses.")
    threads: int | None = setting(None, "How many threads an operation has on the processor.")
    choices: dict[str, str] = setting({}, "Everything that the studio chose for how the run computes.")
    versions: dict[str, str] = setting({}, "Versions of Python and the libraries.")
    schedule_start: int = setting(
        0, "The step after which the learning rate's schedule began anew, where a run was continued.", ge=0
    )
    accepted: dict[str, str] = setting({}, "Changes between a checkpoint and its resume that a person has accepted.")


SECTIONS: dict[str, type[Section]] = {"model": ModelSpec, "data": DataSpec, "train": TrainSpec}
