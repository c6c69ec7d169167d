"""Load a tokenizer and a model from a folder that :func:`studio.models.store.fetch` returned."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models import remote_code
from studio.models.architectures import check_task
from studio.models.classification import settings_for, settle_head
from studio.models.headers import read_config, read_headers
from studio.models.processor import computes_bfloat16
from studio.models.shapes import shapes_of
from studio.models.store import fetch
from studio.models.weight_check import check_loaded, check_quantised
from studio.recipe import ModelSpec

_HEADS = ("score", "classifier", "pre_classifier", "pooler", "head")  # what families call the head of the classes


def load_tokenizer(source: ModelSpec | str | Path, *, trust_remote_code: bool = False, copied: bool = False) -> Any:
    """The tokenizer of a spec (fetched if need be) or of a folder. Does not load the model's weights.

    Args:
        trust_remote_code: the recipe asks for the model's own code; it runs only if a person has allowed it
            (:mod:`studio.models.remote_code`).
        copied: the folder was written by the studio from a model whose code was allowed.

    Raises:
        StudioError: the tokenizer cannot be read, or needs code that nobody has allowed.
    """
    if isinstance(source, ModelSpec):
        folder, trust_remote_code = fetch(source), source.trust_remote_code
    else:
        folder = Path(source)
    trust_remote_code = remote_code.may_run(folder, trust_remote_code, copied=copied)
    if (folder / "config.json").exists():  # AutoTokenizer builds the configuration, too
        read_config(folder)
    try:
        if _is_plain_fast(folder):
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _explain(error, folder, "tokenizer") from error


def _is_plain_fast(folder: Path) -> bool:
    """Whether AutoTokenizer would take the plain fast class. Asking for that class itself does not import torch, which
    keeps the studio's page light."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    plain = config.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return plain and "auto_map" not in config and (folder / "tokenizer.json").is_file()


def load_model(spec: ModelSpec, *, device: str = "cpu", dtype: str | None = None, classes: Any = None) -> Any:
    """A base model for training or generation, on ``device``, in evaluation mode, without gradients asked for.

    Args:
        spec: which model; fetched if it is not on this disk.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None resolves ``spec.dtype``. Quantised weights
            (``spec.quantization``) compute in this type.
        classes: what a classifier tells apart (``studio.data.classes.Classes``); its head is new, and random by
            torch's seed. None for a model that goes on with text.

    Raises:
        StudioError: broken or foreign files, code that may not run, too little memory.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    folder = fetch(spec)
    trusted = remote_code.may_run(folder, spec.trust_remote_code)
    needs_code(folder, spec)
    fits_its_weights(folder)
    check_task(folder, spec, "causal_lm" if classes is None else "seq_cls")
    dtype = dtype or resolve_dtype(spec.dtype, device)
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "local_files_only": True,
        # A .bin file is a pickle: transformers reads it with weights_only=True, which refuses to run code.
        "use_safetensors": any(folder.glob("*.safetensors")),
    }
    if spec.quantization != "none":
        options |= {"quantization_config": quantization_config(spec, dtype), "device_map": {"": device}}
    try:
        if classes is None:
            options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}  # check_loaded refuses them
            with _silent():
                model, loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted, **options)
            model.unexpected_weights = check_loaded(loaded, spec.id)
        else:
            options |= settings_for(classes)
            with _silent():  # the new head is no surprise, and settle_head looks at the rest
                made = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=trusted, **options)
            model = settle_head(*made, spec)
        if spec.quantization != "none":
            check_quantised(model, spec.id)
        return _settle_quantised(model, device) if spec.quantization != "none" else model.to(device)
    except torch.OutOfMemoryError as error:
        raise StudioError(
            f"{spec.id} does not fit into the memory of {device}.",
            "Take a smaller model, model.quantization nf4, or close what else uses the device.",
            field="model.id",
        ) from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _explain(error, folder, "model") from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # derives from Exception alone
            raise _explain(error, folder, "model") from error
        raise


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' warnings for a while."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def quantization_config(spec: ModelSpec, dtype: str) -> Any:
    """bitsandbytes' settings for 4 bits (https://arxiv.org/abs/2305.14314) or 8 bits."""
    import torch
    from transformers import BitsAndBytesConfig

    whole = ["lm_head", *_HEADS] if spec.task == "seq_cls" else None  # a new head has nothing to be quantised
    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    assert spec.quantization in ("nf4", "fp4"), spec.quantization
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=whole,
        bnb_4bit_quant_type=spec.quantization,
        bnb_4bit_use_double_quant=spec.double_quantization,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def _settle_quantised(model: Any, device: str) -> Any:
    """Keep two habits of bitsandbytes on CPUs from doing harm.

    The first evaluation repacks 4-bit weights for an inference kernel that has no backward pass, and they stay so:
    training after it would lose gradients without a word. And 8-bit layers log one line per call.
    """
    import logging

    from bitsandbytes.nn import Linear4bit

    if device == "cpu":
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return model


def resolve_dtype(dtype: str, device: str) -> str:
    """``auto`` as the number format that this device computes fast; any other value stays.

    CUDA takes bfloat16 where the hardware has it, otherwise float16. A CPU takes bfloat16 with AVX512-BF16 or AMX: they
    make it several times as fast as float32, without them it is slower. Anything else takes float32.
    """
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return _fast_cpu_dtype() if device == "cpu" else "float32"


def _fast_cpu_dtype() -> str:
    return "bfloat16" if computes_bfloat16() else "float32"


def needs_code(folder: Path, spec: ModelSpec) -> None:
    """Refuse a model that works only with Python code of its own, unless the spec allows that.

    Raises:
        StudioError: explaining the choice.
    """
    from transformers import CONFIG_MAPPING

    config = read_config(folder)
    if spec.trust_remote_code or not config.get("auto_map") or config.get("model_type") in CONFIG_MAPPING:
        return
    raise StudioError(
        f"{spec.id} works only with Python code that comes with it.",
        "Such code can do anything on this machine. If you trust its authors, set model.trust_remote_code to true and "
        "allow its files; otherwise choose another model.",
        field="model.trust_remote_code",
        code="remote_code_needed",
    )


def fits_its_weights(folder: Path) -> None:
    """Refuse a configuration that describes a far larger model than its files hold.

    transformers would make room for what the configuration says, and fill it with random numbers.

    Raises:
        StudioError: code ``config_exceeds_weights``.
    """
    config = read_config(folder)
    shapes, tensors = shapes_of(config), read_headers(folder)
    if shapes is None or not tensors or config.get("quantization_config"):
        return
    stored = sum(tensor.count for tensor in tensors.values())
    if shapes.total > 2 * stored + 50_000_000:
        raise StudioError(
            f"The config.json of {folder} describes {shapes.total:,} parameters, and its files hold {stored:,}.",
            "Copy the model again, or choose another one.",
            field="model.id",
            code="config_exceeds_weights",
        )


def _explain(error: Exception, folder: Path, part: str) -> StudioError:
    text = str(error)
    first = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
    if "trust_remote_code" in text:
        return StudioError(
            f"The {part} in {folder} works only with Python code that comes with it.",
            "If you trust its authors, set model.trust_remote_code to true and allow its files; otherwise choose "
            "another model.",
            field="model.trust_remote_code",
            code="remote_code_needed",
        )
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text or "Weights only" in text:
        return StudioError(
            f"A .bin file in {folder} holds more than numbers, and loading it would run code; it was refused.",
            "Take a model in safetensors format.",
            field="model.id",
        )
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return StudioError(
            f"The architecture of {folder} is not known to the installed transformers.",
            "Update transformers, or choose another model.",
            field="model.id",
        )
    if "Unrecognized configuration class" in text:
        return StudioError(
            f"{folder} is not a language model that continues text.", "Choose a causal language model.", "model.id"
        )
    if isinstance(error, ImportError):
        return StudioError(f"The {part} in {folder} needs a package: {first}", "Install it and start again.")
    return StudioError(
        f"The {part} in {folder} cannot be read: {first}", "Download it again, or choose another.", field="model.id"
    )


def context_length(model: Any) -> int | None:
    """The longest sequence the model was built for, in tokens, or None if its configuration does not say."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
