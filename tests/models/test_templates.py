"""The built-in chat templates, templates written in a recipe, and templates that mean harm."""

import time
from functools import cache

import pytest
from tiny import CHATML as PLAIN_CHATML
from tiny import make_tiny_tokenizer

from studio.data import encode_conversation
from studio.data.encode import IGNORE
from studio.errors import StudioError
from studio.models import jinja_check
from studio.models.chat import prepare_chat
from studio.models.jinja_check import needs_trying, try_template
from studio.models.templates import BUILTIN

SYSTEM = {"role": "system", "content": "Answer in one short sentence."}
TURNS = (
    ("What is the capital of France?", "Paris."),
    ("And what of Germany, 100 years ago?", "Berlin, as it is today: 42."),
    ("Write a function:\n\n- add two numbers", "def add(a, b):\n    return a + b\n"),
)
CHECKED = [{"role": "user", "content": "ping-7"}, {"role": "assistant", "content": "pong-8"}]
ENDS_IN_OWN = [name for name, known in BUILTIN.items() if known.end is None]
BLANK_IS_THE_ANSWERS = ("mistral", "plain")
ONES = pytest.mark.parametrize("name", list(BUILTIN))
BEGINNINGS = pytest.mark.parametrize("bos", [True, False], ids=["with-bos", "without-bos"])


@cache
def core(bos: bool) -> str:
    """A tokenizer as JSON: with ``bos`` it puts ``<s>`` before every text, otherwise it knows no such token."""
    from tokenizers import processors

    made = make_tiny_tokenizer(["<s>", "</s>", "<pad>"] if bos else ["</s>", "<pad>"])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return made.to_str()


def tokenizer(bos: bool = True, eos: str | None = "</s>"):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(core(bos)),
        bos_token="<s>" if bos else None,
        eos_token=eos,
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def prepared(name: str, bos: bool = True):
    made = tokenizer(bos)
    prepare_chat(made, chat_template=name)
    return made


def conversation(turns: int, system: bool) -> list[dict]:
    said = []
    for question, answer in TURNS[:turns]:
        said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [SYSTEM, *said] if system else said


def runs_of(encoded) -> list[list[int]]:
    """The unbroken runs of ids that carry loss."""
    runs, before = [], IGNORE
    for label in encoded.labels:
        if label != IGNORE and before == IGNORE:
            runs.append([])
        if label != IGNORE:
            runs[-1].append(label)
        before = label
    return runs


def in_order(text: str, parts: list[str]) -> bool:
    position = 0
    for part in parts:
        found = text.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return True


@ONES
@BEGINNINGS
@pytest.mark.parametrize("system", [True, False], ids=["system", "no-system"])
@pytest.mark.parametrize("turns", [1, 3])
def test_trains_on_each_answer_with_its_end_of_turn_and_on_nothing_else(name, bos, system, turns):
    made, messages = prepared(name, bos), conversation(turns, system)
    blank = " " if name in BLANK_IS_THE_ANSWERS else ""
    end = BUILTIN[name].end or "</s>"
    wanted = [blank + m["content"] + end for m in messages if m["role"] == "assistant"]
    assert [made.decode(run) for run in runs_of(encode_conversation(made, messages))] == wanted


@ONES
@BEGINNINGS
@pytest.mark.parametrize("system", [True, False], ids=["system", "no-system"])
@pytest.mark.parametrize("turns", [1, 3])
def test_prints_every_message_in_its_order(name, bos, system, turns):
    messages = conversation(turns, system)
    text = prepared(name, bos).apply_chat_template(messages, tokenize=False)
    assert in_order(text, [m["content"] for m in messages])


@ONES
@BEGINNINGS
@pytest.mark.parametrize("system", [True, False], ids=["system", "no-system"])
@pytest.mark.parametrize("turns", [1, 3])
def test_inference_goes_on_exactly_where_training_began(name, bos, system, turns):
    """The prompt's tokens are those of the training example up to the answer's first."""
    made, messages = prepared(name, bos), conversation(turns, system)
    for number in [i for i, m in enumerate(messages) if m["role"] == "assistant"]:
        encoded = encode_conversation(made, messages[: number + 1], train_on="last")
        first = next(i for i, label in enumerate(encoded.labels) if label != IGNORE)
        prompt = made.apply_chat_template(messages[:number], add_generation_prompt=True, return_dict=False)
        assert prompt == encoded.input_ids[:first]


@ONES
@BEGINNINGS
def test_the_beginning_token_stands_first_and_once_if_the_tokenizer_begins_every_text_with_it(name, bos):
    text = prepared(name, bos).apply_chat_template(conversation(3, True), tokenize=False)
    assert (text.startswith("<s>"), text.count("<s>")) == ((True, 1) if bos else (False, 0))


@ONES
def test_what_a_tool_returns_is_printed_and_not_trained_on(name):
    messages = [
        *conversation(1, True),
        {"role": "user", "content": "And the weather there?"},
        {"role": "assistant", "content": "I look."},
        {"role": "tool", "content": "rain, 11 degrees"},
        {"role": "assistant", "content": "It rains."},
    ]
    made = prepared(name)
    encoded = encode_conversation(made, messages)
    assert in_order(encoded.text, [m["content"] for m in messages])
    trained = "".join(made.decode(run) for run in runs_of(encoded))
    assert "rain, 11" not in trained
    assert "It rains." in trained


@ONES
@pytest.mark.parametrize("role", ["system", "user", "tool", "assistant"])
@pytest.mark.parametrize("message", [{"content": None}, {}], ids=["none", "missing"])
def test_a_message_without_content_prints_nothing(name, role, message):
    made = prepared(name)
    messages = [*conversation(1, True), {"role": role, **message}, *conversation(2, False)[2:]]
    text = made.apply_chat_template(messages, tokenize=False)
    empty = made.apply_chat_template([m | {"content": m.get("content") or ""} for m in messages], tokenize=False)
    assert "None" not in text
    assert text == empty


@pytest.mark.parametrize("name", ["gemma", "mistral"])
@pytest.mark.parametrize(
    "roles",
    [
        "system",
        "system system user",
        "user system",
        "system assistant",
        "user assistant system user",
        "system tool user",
    ],
)
def test_a_system_message_is_printed_wherever_it_stands(name, roles):
    messages = [{"role": role, "content": f"part {n} of it"} for n, role in enumerate(roles.split())]
    text = prepared(name).apply_chat_template(messages, tokenize=False)
    assert in_order(text, [m["content"] for m in messages])
    opening, closing = ("<start_of_turn>", "<end_of_turn>") if name == "gemma" else ("[INST]", "[/INST]")
    assert text.count(opening) == text.count(closing)


EXPECTED = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "U<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
    "<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "[INST] S\n\nU [/INST] A</s>[INST] V [/INST]",
    "phi": "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nV<|end|>\n<|assistant|>\n",
    "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
    "plain": "System: S\nUser: U\nAssistant: A</s>\nUser: V\nAssistant:",
}


@ONES
def test_writes_its_format_to_the_letter(name):
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": r, "content": c} for r, c in zip(roles, "SUAV", strict=True)]
    made = prepared(name, bos=False)
    assert made.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == EXPECTED[name]


@ONES
def test_adds_the_tokens_that_are_missing_and_says_so(name):
    made, known = tokenizer(), BUILTIN[name]
    size = len(made)
    notes = prepare_chat(made, chat_template=name)
    assert notes.new_token_ids == tuple(range(size, size + len(known.special_tokens)))
    assert made.convert_ids_to_tokens(list(notes.new_token_ids)) == list(known.special_tokens)
    assert made.eos_token == (known.end or "</s>")
    assert notes[0] == f"The model has no chat template, so {known.title} is used."
    assert not known.special_tokens or ", ".join(known.special_tokens) in notes[1]


def test_a_token_that_is_there_is_not_added_again():
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    there = made.convert_tokens_to_ids("<|eot_id|>")
    notes = prepare_chat(made, chat_template="llama3")
    assert len(notes.new_token_ids) == 2
    assert there not in notes.new_token_ids
    assert made.eos_token_id == there


def test_a_name_replaces_the_models_own_template():
    made = tokenizer()
    made.chat_template = PLAIN_CHATML
    assert prepare_chat(made, chat_template="llama3")[0] == "Llama 3 replaces the model's own chat template."


@pytest.mark.parametrize("name", ENDS_IN_OWN)
def test_a_tokenizer_without_an_end_token_is_refused_where_the_template_needs_it(name):
    with pytest.raises(StudioError, match="end-of-text token") as caught:
        prepare_chat(tokenizer(eos=None), chat_template=name)
    assert caught.value.field == "data.chat_template"
    assert "chatml" in caught.value.fix


@pytest.mark.parametrize("name", [name for name in BUILTIN if name not in ENDS_IN_OWN])
def test_a_tokenizer_without_an_end_token_gets_the_templates(name):
    made = tokenizer(eos=None)
    prepare_chat(made, chat_template=name)
    assert made.eos_token == BUILTIN[name].end


def test_a_template_written_in_the_recipe_is_used():
    made = tokenizer()
    notes = prepare_chat(made, chat_template="{% for m in messages %}({{ m.role }}) {{ m.content }}{% endfor %}")
    assert made.apply_chat_template(CHECKED, tokenize=False) == "(user) ping-7(assistant) pong-8"
    assert list(notes) == ["The chat template is the one written in the recipe."]


@pytest.mark.parametrize("text", ["{{ 'fixed text' }}", "{{ messages[0].content }}", "{{ ''.__class__ }}"])
def test_a_template_written_in_the_recipe_that_leaves_out_what_is_said_is_refused(text):
    made = tokenizer()
    with pytest.raises(StudioError, match="leaves out what is said") as caught:
        prepare_chat(made, chat_template=text)
    assert caught.value.field == "data.chat_template"
    assert made.chat_template is None


HOSTILE = {
    "loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "did not end within",
    ),
    "one-endless-operation": ("{{ (7 ** (9 ** 9)) | length }}", "did not end within"),
    "growing": (  # by eight, so that it is out of memory long before it is out of time
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x" + " ~ n.x" * 7 + " %}{% endfor %}",
        "needs too much memory.",
    ),
    "a-terabyte": ("{{ 'a' * 10**12 }}", "needs too much memory."),
    "long": ("{{ 'a' * 1000001 }}", "writes more than 1,000,000 characters."),
    "attributes": ("\n{{ ''.__class__.__mro__ }}", "fails at line 2: access to attribute '__class__'"),
    "file": ("{% include '/etc/passwd' %}", "fails at line 1: no loader"),
    "syntax": ("one\ntwo\n{% for %}", "is broken at line 3: "),
    "function": ("{{ eos_token }}\n{{ frobnicate() }}", "fails at line 2: 'frobnicate' is undefined."),
    "endless-macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails at line 1: maximum recursion"),
    "own-refusal": ("\n\n{{ raise_exception('Only cats.') }}", "fails at line 3: Only cats."),
    "filter": ("\n{{ messages | frobnicate }}", "is broken at line 2: No filter named 'frobnicate'."),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_template_is_refused_soon_and_with_its_reason(name, monkeypatch):
    template, sentence = HOSTILE[name]
    monkeypatch.setattr(jinja_check, "SECONDS", 1 if sentence.startswith("did not end") else 5)
    made, start = tokenizer(), time.monotonic()
    with pytest.raises(StudioError) as caught:
        prepare_chat(made, chat_template=template)
    assert time.monotonic() - start < 10
    assert caught.value.what.startswith(f"The chat template {sentence}")
    assert (caught.value.field, made.chat_template) == ("data.chat_template", None)
    assert caught.value.fix


def test_a_hostile_template_of_the_models_own_is_refused():
    made = tokenizer()
    made.chat_template = PLAIN_CHATML + HOSTILE["a-terabyte"][0]
    with pytest.raises(StudioError, match="needs too much memory"):
        prepare_chat(made)


def test_the_check_renders_as_the_tokenizer_does():
    made = tokenizer()
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}\n  {% if m.content is defined %}{{ m | tojson }}{% endif %}\n"
        "{% generation %}é{% endgeneration %}{% endfor %}{{ tools | tojson(indent=2) }}{{ add_generation_prompt }}"
    )
    messages = [*CHECKED, {"role": "assistant", "content": None}, {"role": "user", "content": "🦊 \ud800 \x00"}]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    own = made.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    variables = {**made.special_tokens_map, "add_generation_prompt": True}
    assert try_template(made.chat_template, messages, variables, tools) == own


@ONES
def test_a_template_like_the_built_in_ones_starts_no_process(name, monkeypatch):
    monkeypatch.setattr(jinja_check.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    made = tokenizer()
    made.chat_template = "{{- bos_token }}" + BUILTIN[name].template
    prepare_chat(made)
    assert not needs_trying(PLAIN_CHATML)


@pytest.mark.parametrize(
    "template",
    [
        *(HOSTILE[name][0] for name in ("loops", "one-endless-operation", "growing", "a-terabyte", "endless-macro")),
        "{% set a = 'xy' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
        "{% set a = 'xy' %}" + "{% set a = [a, a] %}" * 40 + "{{ a }}",
        "{% set a = 'xy' %}" + "{% set a = a | join(a) %}" * 9 + "{{ a }}",
        "{{ '\"' " + "| tojson" * 40 + " }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{{ messages[0].content.replace('', 'xxxxxxxxxxxx') }}",
        "{% for a in [1, 2] %}{% for b in messages %}{% endfor %}{% endfor %}",
        "{% for c in 'a long text' %}{% endfor %}",
        "{% set text = 'a long text' %}{% for c in text %}{% endfor %}",
        "{% for a in messages %}{% for b in messages %}{% for c in messages %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% set a %}{{ messages }}{{ messages }}{% endset %}",
        "{{ lipsum(100000) }}",
        "{% for %}",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    ],
)
def test_a_template_that_could_grow_is_tried_first(template):
    assert needs_trying(template)


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{{ 9 ** (9 ** 9) }}", marks=pytest.mark.slow),  # takes all of its five seconds
        "{% for i in range(10**9) %}{% endfor %}",
        "{% set x = [0] * 10**10 %}{{ x | length }}",
    ],
)
def test_security_10_a_template_that_computes_for_ever_is_refused_within_its_bound(template):
    assert needs_trying(template)
    with pytest.raises(StudioError) as caught:
        try_template(template + "{{ messages[0]['content'] }}", CHECKED, {})
    assert caught.value.field == "data.chat_template"


def test_security_10_powers_in_a_row_are_what_jinja_says_and_no_chat_template(tiny_tokenizer):
    """Jinja reads ``9**9**9`` from the left: 78 digits, at once. As a chat template it prints nothing of a message."""
    from copy import deepcopy

    assert try_template("{{ 9**9**9 }}", CHECKED, {}) == str((9**9) ** 9)
    with pytest.raises(StudioError) as caught:
        prepare_chat(deepcopy(tiny_tokenizer), None, "{{ 9**9**9 }}")
    assert caught.value.field == "data.chat_template"
