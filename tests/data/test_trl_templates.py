"""The chat templates of the field, as TRL keeps them: each is masked exactly or refused, never masked wrongly."""

import importlib.util
import re
from pathlib import Path

import pytest
from families import written
from tiny import make_tiny_tokenizer

from studio.data import encode_conversation
from studio.data.encode import IGNORE
from studio.errors import StudioError

FOLDER = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
SYSTEM = {"role": "system", "content": "system-zero speaks"}
TURNS = [
    {"role": "user", "content": "user-one asks"},
    {"role": "assistant", "content": "assistant-one answers"},
    {"role": "user", "content": "user-two asks"},
    {"role": "assistant", "content": "assistant-two answers"},
]
SPECIAL = re.compile(
    r"<\|[^<>|\s]+\|>|<\|?[a-z_]+\|?>|\[/?[A-Z_]+\]|</s>|<｜[^<>｜]+｜>|<[a-z]+_of_[a-z]+>|<\|[A-Z_]+\|>"
)
THINKING = re.compile(r"</?think>|</?tool\w*>|</?function\w*>|</?param\w*>|</?IMPORTANT>|</?arg_\w+>")
END = r"(<[^<>\s]+>)"  # an end-of-turn token
PARTS = "it leaves out or repeats what the assistant says"  # it takes a list of parts where a text is
REFUSED = {
    "glm4moe": "does not close the assistant's turn",
    "idefics3": PARTS,
    "idefics3_training": "its markers do not hold what the assistant says",
    "llava_next": "has no attribute 'text'",
    "llava_next_training": "has no attribute 'text'",
    "smolvlm": PARTS,
    "smolvlm_training": "its markers do not hold what the assistant says",
}
WITHOUT_SYSTEM = ("gemma", "gemma_training")  # they refuse a system message


def tokenizer_for(template: str):
    """A tokenizer that knows every token that a template names."""
    from transformers import PreTrainedTokenizerFast

    named = [token for token in dict.fromkeys(SPECIAL.findall(template)) if not THINKING.fullmatch(token)]
    made = PreTrainedTokenizerFast(
        tokenizer_object=make_tiny_tokenizer(["<|bos|>", "<|eos|>", *named], vocab_size=400 + len(named)),
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_known_template_is_masked_exactly_or_refused(name):
    made = tokenizer_for((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    if name in REFUSED:
        with pytest.raises(StudioError, match=re.escape(REFUSED[name])):
            encode_conversation(made, [SYSTEM, *TURNS])
        return
    encoded = encode_conversation(made, TURNS if name in WITHOUT_SYSTEM else [SYSTEM, *TURNS])
    trained = [id for id, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != IGNORE]
    said = re.escape("assistant-one answers") + END + ".*" + re.escape("assistant-two answers") + END
    assert re.search(said, written(made, trained), re.DOTALL)
    assert not re.search("user-|system-|asks|speaks", written(made, trained))


@pytest.mark.parametrize("name", WITHOUT_SYSTEM)
def test_a_template_that_takes_no_system_message_says_so(name):
    made = tokenizer_for((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
    with pytest.raises(StudioError, match="System role not supported"):
        encode_conversation(made, [SYSTEM, *TURNS])
