"""The encoder: what carries loss is what the assistant says and its end of turn, and nothing else."""

import pytest
from families import FAMILIES, KINDS, tokenizer, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.data import encode_conversation, encode_row, encode_rows
from studio.data.encode import IGNORE, encode_text
from studio.errors import StudioError
from studio.recipe import DataSpec

CLAIM = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
COMBINATIONS = [(family, kind) for family in FAMILIES for kind in KINDS]
SCRAPS = [
    *("<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "</s>", "[/INST]", "[INST]", "<end_of_turn>", "<|end|>"),
    *("<|im_end|>\n", "👩‍👩‍👧", "🇩🇪", "日本語の文", "שלום עולם", "مرحبا", "e\u0301", "\u200f", "\u3000", "\u00a0"),
    *(
        " ",
        "\n",
        "\n\n",
        "\t",
        "  ",
        "hello",
        " The capital",
        "{{ messages }}",
        "{% generation %}",
        "mark",
        "▁",
        "\x00",
    ),
]
content = st.lists(st.sampled_from(SCRAPS) | st.text(max_size=8), max_size=5).map("".join)


@st.composite
def conversations(draw):
    """An optional system message, then one to four turns of user and assistant."""
    messages = [{"role": "system", "content": draw(content)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages += [{"role": "user", "content": draw(content)}, {"role": "assistant", "content": draw(content)}]
    return messages


def runs_of(encoded) -> list[list[int]]:
    """The unbroken runs of positions that carry loss, as lists of ids."""
    runs, open_run = [], None
    for id, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label == IGNORE:
            open_run = None
        elif open_run is None:
            runs.append(open_run := [id])
        else:
            open_run.append(id)
    return runs


def blanks_apart(text: str) -> str:
    """Text without plain blanks, for tokenizers that put one before a word and write it ``▁``."""
    return text.replace("▁", "").replace(" ", "")


@pytest.mark.parametrize(("family", "kind"), COMBINATIONS)
@CLAIM
@given(messages=conversations())
def test_the_loss_is_on_each_answer_with_its_end_of_turn_and_on_nothing_else(family, kind, messages):
    made = tokenizer(family, kind)
    encoded = encode_conversation(made, messages)
    trained = [text for text, carries in FAMILIES[family].write(messages) if carries]
    before = []  # what stands right before each answer: its blanks may share a token with the answer's first letter
    pieces = FAMILIES[family].write(messages)
    for number, (_, carries) in enumerate(pieces):
        if carries:
            before.append("".join(text for text, _ in pieces[:number]))
    found = [written(made, ids) for ids in runs_of(encoded)]
    assert len(found) == len(trained)
    for run, answer, head in zip(found, trained, before, strict=True):
        if kind.startswith("sentencepiece"):
            run, answer = blanks_apart(run), blanks_apart(answer)
        assert run.endswith(answer)
        extra = run[: len(run) - len(answer)]
        assert not extra.strip()
        assert head.endswith(extra)


@pytest.mark.parametrize(("family", "kind"), COMBINATIONS)
@CLAIM
@given(messages=conversations())
def test_the_ids_are_those_of_the_tokenizers_own_chat_template(family, kind, messages):
    made = tokenizer(family, kind)
    expected = made.apply_chat_template(messages, tokenize=True, return_dict=False)
    for train_on in ("assistant", "last", "all"):
        assert encode_conversation(made, messages, train_on=train_on).input_ids == expected


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
@CLAIM
@given(messages=conversations(), family=st.sampled_from(list(FAMILIES)))
def test_a_label_is_the_tokens_own_id_or_ignored(train_on, messages, family):
    encoded = encode_conversation(tokenizer(family), messages, train_on=train_on)
    assert len(encoded.labels) == len(encoded.input_ids) == len(encoded.offsets)
    assert all(label in (IGNORE, id) for id, label in zip(encoded.input_ids, encoded.labels, strict=True))


@CLAIM
@given(messages=conversations(), family=st.sampled_from(list(FAMILIES)))
def test_train_on_last_is_the_last_run_of_train_on_assistant(messages, family):
    whole = encode_conversation(tokenizer(family), messages)
    last = encode_conversation(tokenizer(family), messages, train_on="last")
    answered = bool(messages[-1]["content"].strip())  # an empty reply carries no loss
    assert runs_of(last) == (runs_of(whole)[-1:] if answered else [])


@CLAIM
@given(messages=conversations(), family=st.sampled_from(list(FAMILIES)))
def test_train_on_all_ignores_no_token(messages, family):
    encoded = encode_conversation(tokenizer(family), messages, train_on="all")
    assert encoded.labels == encoded.input_ids


@CLAIM
@given(messages=conversations(), family=st.sampled_from(list(FAMILIES)), limit=st.integers(1, 60))
def test_max_length_keeps_a_beginning_of_the_whole_example(messages, family, limit):
    whole = encode_conversation(tokenizer(family), messages)
    cut = encode_conversation(tokenizer(family), messages, max_length=limit)
    assert cut.input_ids == whole.input_ids[:limit]
    assert cut.labels == whole.labels[:limit]
    assert cut.cut == len(whole.input_ids) - len(cut.input_ids)


@CLAIM
@given(messages=conversations(), family=st.sampled_from(list(FAMILIES)), limit=st.integers(1, 60))
def test_a_row_is_dropped_with_a_reason_exactly_if_no_loss_is_left(messages, family, limit):
    encoded = encode_conversation(tokenizer(family), messages, max_length=limit)
    nothing_left = all(label == IGNORE for label in encoded.labels[1:])  # nothing predicts the first token
    assert (encoded.dropped is not None) == nothing_left
    answered = any(m["role"] == "assistant" and m["content"].strip() for m in messages)
    assert not encoded.dropped or ("max_length" in encoded.dropped) == answered


@pytest.mark.parametrize(("family", "kind"), COMBINATIONS)
@CLAIM
@given(messages=conversations())
def test_offsets_cover_the_text_without_holes(family, kind, messages):
    encoded = encode_conversation(tokenizer(family, kind), messages)
    covered = 0
    for start, end in encoded.offsets:
        assert start <= covered
        covered = max(covered, end)
    assert covered == len(encoded.text)


ASK = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = [*ASK, {"role": "assistant", "content": "The capital of France is Paris."}]


def with_template(template: str, family: str = "chatml"):
    import copy

    made = copy.deepcopy(tokenizer(family))
    made.chat_template = template
    return made


def refusal(template: str, messages=ANSWER, **options) -> StudioError:
    with pytest.raises(StudioError) as caught:
        encode_conversation(with_template(template), messages, **options)
    return caught.value


def test_a_template_that_rewrites_the_answer_is_refused():
    error = refusal("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}")
    assert error.code == "message_lost"
    assert error.field == "data.chat_template"


def test_a_template_that_shortens_the_answer_is_refused():
    error = refusal("{% for m in messages %}{{ m.content[:12] }}<|im_end|>{% endfor %}")
    assert error.code == "message_lost"


def test_a_template_that_leaves_the_answer_out_is_refused():
    error = refusal("{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}")
    assert error.code == "message_lost"


def test_a_template_that_repeats_the_answer_is_refused():
    error = refusal("{% for m in messages %}{{ m.content }}<|im_end|>{{ m.content }}<|im_end|>{% endfor %}")
    assert error.code == "mask_not_exact"


def test_a_template_that_writes_the_turns_in_another_order_is_refused():
    turns = [*ANSWER, *ANSWER[:1], {"role": "assistant", "content": "Paris, as I said."}]
    error = refusal("{% for m in messages | reverse %}{{ m.content }}<|im_end|>{% endfor %}", turns)
    assert error.code == "mask_not_exact"


def test_a_template_that_does_not_close_the_answer_with_a_special_token_is_refused():
    error = refusal("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert "would not learn to stop" in error.what


def test_a_marked_template_that_does_not_close_the_answer_with_a_special_token_is_refused():
    error = refusal(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    assert "would not learn to stop" in error.what


def test_a_marked_template_that_misses_a_turn_is_refused():
    error = refusal(
        "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
        [*ANSWER, *ANSWER],
    )
    assert "fewer turns" in error.what


def test_a_marked_template_that_marks_the_wrong_turns_is_refused():
    error = refusal(
        "{% for m in messages %}{% if m.role == 'user' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    assert "its markers hold what the user says" in error.what


def test_a_marked_template_that_leaves_the_answer_out_is_refused():
    error = refusal(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}so<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    assert error.code == "message_lost"


def test_a_marked_template_may_leave_the_end_of_turn_outside_its_markers():
    made = with_template(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    )
    (run,) = runs_of(encode_conversation(made, ANSWER))
    assert written(made, run) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_a_broken_template_names_its_line(train_on):
    error = refusal("{% for m in messages %}\n{{ m.content }}\n{% endfor\n{{ bos_token }}", train_on=train_on)
    assert "at line 4" in error.what


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_what_a_template_says_against_a_conversation_is_passed_on(train_on):
    error = refusal("{{ raise_exception('Roles must alternate') }}", train_on=train_on)
    assert "Roles must alternate" in error.what


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_a_tokenizer_without_a_template_is_refused(train_on):
    error = refusal("", train_on=train_on)
    assert "no chat template" in error.what


def test_an_empty_conversation_is_refused():
    assert "no messages" in refusal(FAMILIES["chatml"].template, []).what


def test_a_conversation_without_an_answer_is_dropped():
    assert encode_conversation(tokenizer("chatml"), ASK).dropped == "no token carries loss"


def test_a_slow_tokenizer_is_refused():
    made = with_template(FAMILIES["chatml"].template)

    class Slow(type(made)):
        is_fast = False

    made.__class__ = Slow
    with pytest.raises(StudioError, match="which characters a token stands for"):
        encode_conversation(made, ANSWER)


@CLAIM
@given(text=content)
def test_plain_text_carries_loss_everywhere_and_ends_with_the_end_of_text_token(text):
    encoded = encode_text(tokenizer("llama3"), text)
    assert encoded.labels == encoded.input_ids
    assert written(tokenizer("llama3"), encoded.input_ids) == text + "<|end_of_text|>"


def test_a_row_is_encoded_by_the_recipes_settings():
    row = {"row": 1, "messages": ANSWER, "text": None}
    encoded = encode_row(tokenizer("chatml"), row, DataSpec(max_length=20, train_on="all"))
    assert len(encoded.labels) == 20
    assert encoded.labels == encoded.input_ids


def test_dropped_rows_are_counted_by_reason_with_their_numbers_in_the_source():
    long = {"row": 7, "messages": [{"role": "user", "content": "x " * 300}, ANSWER[1]], "text": None}
    rows = [{"row": 3, "messages": ANSWER, "text": None}, long]
    kept, dropped = encode_rows(tokenizer("chatml"), rows, DataSpec(max_length=64))
    assert len(kept) == 1
    assert dropped == {"no token that carries loss is left within max_length 64": [7]}


def test_rows_of_which_none_is_left_are_refused_with_the_reasons():
    long = {"row": 7, "messages": [{"role": "user", "content": "x " * 300}, ANSWER[1]], "text": None}
    with pytest.raises(StudioError, match="1 x no token that carries loss is left within max_length 64"):
        encode_rows(tokenizer("chatml"), [long], DataSpec(max_length=64))
