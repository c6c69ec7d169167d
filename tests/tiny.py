"""Tiny models on disk, made in a fraction of a second, for tests that need a real one without any network."""

from __future__ import annotations

import json
from pathlib import Path

# The plain ChatML template of many chat models: no {% generation %} markers, as most models ship it.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

SENTENCES = [
    "The quick brown fox jumps over the lazy dog while the cat sleeps in the warm sun.",
    "You are a helpful assistant. Answer the question in one short sentence.",
    "system user assistant tool question answer message role content",
    "My order number 48213 has not arrived; please tell me where it is.",
    '{"category": "billing", "priority": "high", "product": "camera"}',
    "What is the capital of France? The capital of France is Paris.",
    "Write a function that adds two numbers: def add(a, b): return a + b",
    "Ein kleiner Satz auf Deutsch, une phrase en français, una frase en español.",
    "Numbers: 0 1 2 3 4 5 6 7 8 9 10 100 1000; signs: ! ? , . : ; ( ) [ ] { } + - * / = < > @ #",
]


def make_tiny_tokenizer(special_tokens: list[str], *, vocab_size: int = 480, sentences: list[str] | None = None):
    """A byte-level BPE tokenizer trained on a few sentences; the special tokens get the first ids.

    Every byte is in its alphabet, so any text survives ``decode(encode(text))``.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences or SENTENCES, trainer)
    return tokenizer


def make_tiny_chat_model(
    folder: str | Path,
    *,
    chat_template: str | None = CHATML,
    dtype: str = "float32",
    hidden_size: int = 32,
    tie_word_embeddings: bool = True,
    seed: int = 0,
) -> Path:
    """A two-layer Llama (grouped KV heads, tied embeddings, random weights of a fixed seed) with a chat tokenizer.

    Args:
        chat_template: its Jinja chat template; None makes a base model without one (eos is then ``<|endoftext|>``
            and the ChatML tokens are not in the vocabulary).
        dtype: number format of the saved weights, a name in torch.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = Path(folder)
    chat = chat_template is not None
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if chat else ["<|endoftext|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tiny_tokenizer(special),
        bos_token="<|im_start|>" if chat else "<|endoftext|>",
        eos_token="<|im_end|>" if chat else "<|endoftext|>",
        pad_token="<|endoftext|>" if chat else None,
        unk_token="<|endoftext|>",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = _seeded(LlamaForCausalLM, config, seed).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_gpt2(folder: str | Path, *, dtype: str = "float32", seed: int = 0) -> Path:
    """A two-layer GPT-2 whose tokenizer has no chat template and no special token but ``<|endoftext|>``."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = Path(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tiny_tokenizer(["<|endoftext|>"]),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = _seeded(GPT2LMHeadModel, config, seed).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_bert(folder: str | Path, *, kind: str = "BertModel", seed: int = 0) -> Path:
    """A two-layer BERT with a WordPiece tokenizer of its own; ``kind`` is the class that it is saved as.

    ``BertForMaskedLM`` has no pooler, as many checkpoints on the Hub.
    """
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    folder = Path(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    words.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=400, min_frequency=1, special_tokens=special)
    )
    ends = [(token, words.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=64, **{f"{name}_token": token for name, token in names.items()}
    )
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,  # so that its first position sees the others without any training
        pad_token_id=tokenizer.pad_token_id,
    )
    _seeded(getattr(transformers, kind), config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def set_config(folder: str | Path, **values) -> None:
    """Change keys of a model's config.json; None removes a key."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}, indent=2))


def _seeded(kind, config, seed: int):
    """A model with random weights of this seed, leaving the caller's random state as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config)
