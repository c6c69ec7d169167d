"""Families of chat templates with tokenizers, and what each of them writes, said a second time in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tiny import CHATML, SENTENCES, make_tiny_tokenizer

from studio.models.chat import CHATML as CHATML_WITH_MARKERS

Piece = tuple[str, bool]  # text, and whether the loss is taken on it

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{{ message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
)
PHI = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'].rstrip() + '<|end|>\\n' }}"
    "{% endfor %}{{ eos_token }}"
)


def _trained(message: dict) -> bool:
    """Whether a message carries loss: a reply that is not empty."""
    return message["role"] == "assistant" and bool(message["content"].strip())


def _chatml(messages: list[dict]) -> list[Piece]:
    pieces = []
    for message in messages:
        said = message["content"] + "<|im_end|>"
        trained = _trained(message)
        pieces += [(f"<|im_start|>{message['role']}\n", False), (said, trained), ("\n", False)]
    return pieces


def _llama3(messages: list[dict]) -> list[Piece]:
    pieces = [("<|begin_of_text|>", False)]
    for message in messages:
        head = f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n"
        pieces += [(head, False), (message["content"] + "<|eot_id|>", _trained(message))]
    return pieces


def _mistral(messages: list[dict]) -> list[Piece]:
    pieces = [("<s>", False)]
    for message in messages:
        if message["role"] == "assistant":
            pieces += [(" ", False), (message["content"] + "</s>", _trained(message))]
        else:
            pieces += [(f"[INST] {message['content']} [/INST]", False)]
    return pieces


def _gemma(messages: list[dict]) -> list[Piece]:
    pieces = [("<bos>", False)]
    for message in messages:
        trained = _trained(message)
        name = "model" if message["role"] == "assistant" else message["role"]
        pieces += [(f"<start_of_turn>{name}\n", False)]
        pieces += [(message["content"].strip() + "<end_of_turn>", trained), ("\n", False)]
    return pieces


def _phi(messages: list[dict]) -> list[Piece]:
    pieces = []
    for message in messages:
        said = message["content"].rstrip() + "<|end|>"
        pieces += [(f"<|{message['role']}|>\n", False), (said, _trained(message)), ("\n", False)]
    return [*pieces, ("<|endoftext|>", False)]


@dataclass(frozen=True)
class Family:
    """A chat template, its special tokens (beginning, end of text, and the others) and the pieces it writes."""

    template: str
    bos: str
    eos: str
    others: tuple[str, ...]
    write: Callable[[list[dict]], list[Piece]]

    @property
    def special_tokens(self) -> list[str]:
        return list(dict.fromkeys([self.bos, self.eos, *self.others]))


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FAMILIES = {
    "chatml": Family(CHATML, "<|endoftext|>", "<|im_end|>", ("<|im_start|>",), _chatml),
    "chatml-markers": Family(CHATML_WITH_MARKERS, "<|endoftext|>", "<|im_end|>", ("<|im_start|>",), _chatml),
    "llama3": Family(LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", _HEADERS, _llama3),
    "mistral": Family(MISTRAL, "<s>", "</s>", (), _mistral),
    "gemma-trims": Family(GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), _gemma),
    "phi-trims-right": Family(PHI, "<s>", "<|endoftext|>", ("<|end|>", "<|user|>", "<|assistant|>"), _phi),
}
KINDS = ("byte-level", "byte-level-trimmed", "sentencepiece", "sentencepiece-prefixed")


@cache
def tokenizer(family: str, kind: str = "byte-level"):
    """A tokenizer of this kind with the special tokens and the template of this family."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    chosen = FAMILIES[family]
    if kind.startswith("byte-level"):
        core = make_tiny_tokenizer(chosen.special_tokens, vocab_size=420)
        if kind == "byte-level-trimmed":
            core.post_processor = processors.ByteLevel(trim_offsets=True)
    else:
        core = _sentencepiece(chosen.special_tokens, prefixed=kind == "sentencepiece-prefixed")
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=chosen.bos,
        eos_token=chosen.eos,
        pad_token=chosen.eos,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = chosen.template
    return made


def _sentencepiece(special_tokens: list[str], prefixed: bool):
    """BPE over text whose blanks are ``▁``, with bytes for characters it has not seen, as Llama 2 and Gemma have it."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", *special_tokens, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(pair) for pair in model["merges"]]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    steps = [normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefixed else steps)
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special_tokens])
    return made


def written(made, ids: list[int]) -> str:
    """The text that ids stand for, to the letter; with ``▁`` for blanks where the tokenizer has it so."""
    if made.backend_tokenizer.normalizer is None:
        return made.decode(ids, skip_special_tokens=False)
    raw = bytearray()
    for token in made.convert_ids_to_tokens(ids):
        is_byte = len(token) == 6 and token.startswith("<0x")
        raw += bytes([int(token[3:5], 16)]) if is_byte else token.encode()
    return raw.decode()
