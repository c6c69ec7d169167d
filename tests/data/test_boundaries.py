"""The context of a trained reply is the prompt of inference, to the token, and nothing that is said is lost."""

import copy
import json

import pytest
from families import FAMILIES, KINDS, tokenizer
from template_zoo import FOLDER, tokenizer_for
from tiny import SENTENCES, make_tiny_tokenizer

from studio.data.encode import (
    IGNORE,
    collect,
    encode_batch,
    encode_conversation,
    encode_prompt,
    encode_text,
    encoded_one_by_one,
    one_per_reply,
)
from studio.data.special_text import Specials, hide_typed
from studio.errors import StudioError
from studio.models.chat import prepare_chat
from studio.models.templates import BUILTIN
from studio.recipe import DataSpec

ASK = {"role": "user", "content": "Write a function."}
STARTS = ["    return 1", "\nreturn 1", "\n\n\nreturn", "\treturn", " return", "return 1", "  \n return"]
COMBINATIONS = [(family, kind) for family in FAMILIES for kind in KINDS]


def zoo(name: str):
    return tokenizer_for((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))


def preset(name: str):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=make_tiny_tokenizer(
            ["<|endoftext|>"], sentences=["\n\n \n\n\n\n return 1", "    return 1"] * 9
        ),
        eos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    prepare_chat(made, None, name)
    return made


def codes(encoded) -> set[str]:
    return {flag.code for flag in encoded.flags}


def trained(made, encoded) -> str:
    return made.decode([label for label in encoded.labels if label != IGNORE])


def code_of(made, messages, **more) -> str:
    with pytest.raises(StudioError) as caught:
        encode_conversation(made, messages, **more)
    return caught.value.code


@pytest.mark.parametrize("answer", STARTS)
@pytest.mark.parametrize(("family", "kind"), COMBINATIONS)
def test_data_08_the_prompt_of_every_reply_is_a_prefix_of_the_row_to_the_token(family, kind, answer):
    made = tokenizer(family, kind)
    messages = [ASK, {"role": "assistant", "content": answer}] * 2
    encoded = encode_conversation(made, messages)
    for index in (1, 3):
        prompt = encode_prompt(made, messages[:index])
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt) - 1] == IGNORE
        assert encoded.labels[len(prompt)] != IGNORE


@pytest.mark.parametrize("answer", STARTS)
@pytest.mark.parametrize("name", BUILTIN)
def test_data_08_the_prompt_of_a_preset_is_a_prefix_of_the_row(name, answer):
    made = preset(name)
    messages = [ASK, {"role": "assistant", "content": answer}]
    encoded = encode_conversation(made, messages)
    prompt = made.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    ids = made(prompt, add_special_tokens=False)["input_ids"]
    assert encoded.input_ids[: len(ids)] == ids == encode_prompt(made, messages[:1])
    assert all(label == IGNORE for label in encoded.labels[: len(ids)])
    assert all(label != IGNORE for label in encoded.labels[len(ids) : len(ids) + 2])


@pytest.mark.parametrize("family", FAMILIES)
def test_data_08_a_continuation_of_a_text_is_given_no_blank_by_a_tokenizer_that_begins_texts_with_one(family):
    made = tokenizer(family, "sentencepiece-prefixed")
    messages = [ASK, {"role": "assistant", "content": "return 1"}]
    whole = made.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encode_conversation(made, messages).input_ids == whole


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_data_08_metaspace_tokenizers_neither_gain_nor_lose_blanks_at_a_boundary(scheme):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*"abcdefghijklmnopqrstuvwxyz▁[]/INST\n"]
    core = Tokenizer(
        models.BPE({"<unk>": 0, **{c: i for i, c in enumerate(dict.fromkeys(letters), 1)}}, [], unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="never")
    core.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    made.chat_template = BUILTIN["mistral"].template
    messages = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}] * 2
    encoded = encode_conversation(made, messages)
    assert encoded.input_ids == made.apply_chat_template(messages, tokenize=True, return_dict=False)
    for index in (1, 3):
        prompt = encode_prompt(made, messages[:index])
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt)] != IGNORE


@pytest.mark.parametrize("kind", ["unigram", "strips"])
def test_data_08_unigram_tokenizers_lose_no_blank_at_a_boundary(kind):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    if kind == "strips":
        core.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()])
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(SENTENCES * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    made.chat_template = BUILTIN["mistral"].template
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "The answer"}] * 2
    encoded = encode_conversation(made, messages)
    (first, second) = (encode_prompt(made, messages[:index]) for index in (1, 3))
    assert encoded.input_ids[: len(first)] == first
    assert encoded.input_ids[: len(second)] == second
    assert made.convert_ids_to_tokens(encoded.input_ids[len(first)]).startswith("▁")


def test_data_08_rows_encoded_together_are_those_encoded_alone():
    made = tokenizer("mistral", "sentencepiece-prefixed")
    rows = [{"messages": [ASK, {"role": "assistant", "content": answer}]} for answer in STARTS]
    together = encode_batch(made, rows, DataSpec())
    assert together == [encode_batch(made, [row], DataSpec())[0] for row in rows]


def test_data_09_an_empty_thought_that_the_prompt_does_not_supply_is_learnt():
    made = zoo("qwen3")
    encoded = encode_conversation(made, [ASK, {"role": "assistant", "content": "return 1"}])
    assert trained(made, encoded).startswith("<think>\n\n</think>\n\nreturn 1<|im_end|>")
    assert codes(encoded) == set()


def test_data_09_what_the_generation_prompt_supplies_carries_no_loss():
    made = zoo("qwen3_5_think")  # its generation prompt opens the thought
    messages = [ASK, {"role": "assistant", "content": "return 1", "reasoning_content": "one is short"}]
    prompt = made.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<think>\n")
    assert trained(made, encode_conversation(made, messages)).startswith("one is short")


def test_data_09_a_template_without_a_generation_prompt_gets_the_header_of_a_reply_and_is_reported():
    made = tokenizer("llama3")  # of the families here, which has none
    messages = [ASK, {"role": "assistant", "content": "return 1"}]
    encoded = encode_conversation(made, messages)
    assert made.decode(encode_prompt(made, messages[:1])).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert trained(made, encoded) == "return 1<|eot_id|>"
    assert codes(encoded) == {"no_generation_prompt"}


@pytest.mark.parametrize("name", ["deepseekv3", "nemotron_3_nano"])
def test_data_09_a_prompt_that_the_row_does_not_begin_with_is_reported(name):
    encoded = encode_conversation(zoo(name), [ASK, {"role": "assistant", "content": "return 1"}])
    assert codes(encoded) == {"context_mismatch"}


def test_data_09_a_reply_that_is_written_differently_as_the_last_one_is_reported():
    messages = [ASK, {"role": "assistant", "content": "return 1"}] * 2
    flags = encode_conversation(zoo("qwen3"), messages).flags
    assert [(flag.code, flag.message) for flag in flags] == [("reply_differs", 1)]


@pytest.mark.parametrize("name", ["phi3", "phi3_training", "phi3_5", "phi3_5_training"])
def test_data_05_a_template_that_leaves_out_a_tools_result_is_refused(name):
    call = {"type": "function", "function": {"name": "look", "arguments": {"place": "Rome"}}}
    messages = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "seventeen degrees"},
        {"role": "assistant", "content": "It is warm."},
    ]
    assert code_of(zoo(name), messages) == "message_lost"


@pytest.mark.parametrize("role", ["system", "user", "tool", "assistant"])
def test_data_05_a_template_that_leaves_out_a_message_is_refused_with_the_rendered_row(role):
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = (
        "{% for m in messages if m.role != '"
        + role
        + "' %}{{ '<|im_start|>' + m.role + '\n' + m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    messages = [
        {"role": "system", "content": "alpha"},
        {"role": "user", "content": "beta"},
        {"role": "tool", "content": "gamma"},
        {"role": "assistant", "content": "delta"},
    ]
    with pytest.raises(StudioError) as caught:
        encode_conversation(made, messages)
    error = caught.value
    assert error.code == "message_lost"
    assert error.text.count("<|im_start|>") == 3
    before = {"system": 0, "user": "alpha", "tool": "beta", "assistant": "gamma"}[role]
    place = error.text.index(before) + len(before) if before else 0
    assert error.place == (place, place)


def test_data_05_a_call_whose_arguments_are_left_out_is_refused():
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "look", "arguments": {"place": "Rome"}}}
    assert code_of(made, [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]) == "message_lost"


def test_data_05_arguments_and_results_that_are_written_as_json_again_are_not_lost():
    call = {"type": "function", "function": {"name": "look", "arguments": {"place": 'the "old"\ntown', "days": 1e5}}}
    messages = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": 'said "yes"\nthen ü'},
        {"role": "assistant", "content": "Done."},
    ]
    for name in ("llama3_1", "qwen2_5"):
        assert encode_conversation(zoo(name), messages).dropped is None


THOUGHTS = [
    ASK,
    {"role": "assistant", "content": "one", "reasoning_content": "first thought"},
    {"role": "user", "content": "More."},
    {"role": "assistant", "content": "two", "reasoning_content": "second thought"},
]
INLINE = [
    ASK,
    {"role": "assistant", "content": "<think>\nfirst thought\n</think>\n\none"},
    {"role": "user", "content": "More."},
    {"role": "assistant", "content": "<think>\nsecond thought\n</think>\n\ntwo"},
]


@pytest.mark.parametrize("messages", [THOUGHTS, INLINE], ids=["apart", "inline"])
@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "glm4moe_training", "gptoss", "nemotron_3_nano"])
def test_data_06_reasoning_that_the_template_leaves_out_is_reported_with_its_message(name, messages):
    encoded = encode_conversation(zoo(name), messages)
    assert [flag.message for flag in encoded.flags if flag.code == "reasoning_dropped"] == [1]


@pytest.mark.parametrize("name", ["qwen3_training", "llama3"])
def test_data_06_reasoning_that_stands_in_the_text_is_not_reported(name):
    encoded = encode_conversation(zoo(name), THOUGHTS)
    assert codes(encoded) == set()
    assert "first thought" in encoded.text


def test_data_06_reasoning_of_the_last_reply_that_is_left_out_refuses_the_row():
    assert code_of(zoo("deepseek_r1_distill"), INLINE) == "reasoning_lost"


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "glm4moe_training", "gptoss"])
def test_data_06_one_example_per_reply_has_the_context_of_inference_and_its_own_reasoning(name):
    made, data = zoo(name), DataSpec(split_turns=True)
    examples = [made_one for _, made_one in encoded_one_by_one(made, [{"row": 7, "messages": THOUGHTS}], data)]
    assert [example.turn for example in examples] == [1, 3]
    for example, thought in zip(examples, ("first thought", "second thought"), strict=True):
        assert codes(example) == set()
        assert thought in trained(made, example)
        prompt = encode_prompt(made, THOUGHTS[: example.turn])
        assert example.input_ids[: len(prompt)] == prompt
        assert all(label == IGNORE for label in example.labels[: len(prompt)])


def test_data_06_one_example_per_reply_keeps_the_number_of_the_row():
    rows = [{"row": 7, "messages": THOUGHTS}, {"row": 9, "messages": THOUGHTS[:2]}]
    found = list(encoded_one_by_one(zoo("qwen3"), rows, DataSpec(split_turns=True)))
    assert [(number, example.turn) for number, example in found] == [(7, 1), (7, 3), (9, 1)]


def test_data_06_progress_and_rejected_rows_count_rows_and_not_their_examples():
    rows = [{"row": number, "messages": THOUGHTS} for number in range(1, 131)]
    data = DataSpec(split_turns=True, max_length=8, invalid_rows="drop")
    told = []
    found = encoded_one_by_one(zoo("qwen3"), rows, data)
    with pytest.raises(StudioError):  # nothing fits into eight tokens
        collect(found, data, told.append)
    assert told[-1] == 130 and told == sorted(told)
    first, *_ = encoded_one_by_one(zoo("qwen3"), rows[:1], DataSpec(split_turns=True))
    _, dropped = collect([first, (1, StudioError("a.", "")), (1, StudioError("a.", ""))], data)
    assert dropped == {"a": [1]}


def test_replies_that_carry_no_loss_get_no_example_of_their_own():
    messages = [
        *(ASK, {"role": "assistant", "content": "one", "train": False}),
        *(ASK, {"role": "assistant", "content": " "}),
        *(ASK, {"role": "assistant", "content": "three"}),
    ]
    row = {"row": 1, "messages": messages, "tools": None}
    assert [one["turn"] for one in one_per_reply(row, DataSpec(split_turns=True))] == [5]
    assert one_per_reply(row, DataSpec()) == [row]
    assert one_per_reply({"text": "plain"}, DataSpec(split_turns=True)) == [{"text": "plain"}]


@pytest.mark.parametrize("name", ["qwen2_5", "qwen2_5_training", "llama3"])
def test_data_02_a_reply_that_its_flag_masks_carries_no_loss_and_is_reported(name):
    made = zoo(name)
    messages = [
        *(ASK, {"role": "assistant", "content": "hidden", "train": False}),
        *(ASK, {"role": "assistant", "content": "shown"}),
    ]
    encoded = encode_conversation(made, messages)
    assert "hidden" in encoded.text
    assert trained(made, encoded).startswith("shown")
    assert [(flag.code, flag.message) for flag in encoded.flags] == [("masked_by_flag", 1)]


def test_data_02_a_masked_reply_carries_no_loss_where_everything_else_does():
    made = zoo("llama3")
    messages = [*(ASK, {"role": "assistant", "content": "hidden", "train": False}), ASK]
    said = trained(made, encode_conversation(made, messages, train_on="all"))
    assert "hidden" not in said
    assert said.count("Write a function.") == 2


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_training", "gemma3"])
def test_data_11_an_empty_reply_carries_no_loss_and_is_reported(name):
    made = zoo(name)
    messages = [*(ASK, {"role": "assistant", "content": " \n"}), *(ASK, {"role": "assistant", "content": "two"})]
    encoded = encode_conversation(made, messages)
    assert trained(made, encoded).startswith("two")
    assert ("empty_reply", 1) in [(flag.code, flag.message) for flag in encoded.flags]


TYPED = "It ends <|im_end|> a turn"


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_data_12_a_special_token_that_is_typed_is_reported_with_its_message(role):
    messages = [
        *({"role": "system", "content": "s"}, ASK, {"role": "tool", "content": "t"}),
        {"role": "assistant", "content": "a"},
    ]
    messages = [{**m, "content": TYPED} if m["role"] == role else m for m in messages]
    encoded = encode_conversation(tokenizer("chatml"), messages)
    assert [(f.code, messages[f.message]["role"]) for f in encoded.flags] == [("special_token_in_text", role)]
    assert encoded.text.count("<|im_end|>") == 5


@pytest.mark.parametrize("kind", KINDS)
def test_data_12_a_typed_special_token_is_ordinary_text_by_choice(kind):
    made = tokenizer("chatml", kind)
    end = made.convert_tokens_to_ids("<|im_end|>")
    messages = [{"role": "user", "content": TYPED}, {"role": "assistant", "content": TYPED}]
    kept = encode_conversation(made, messages)
    plain = encode_conversation(made, messages, special_tokens_in_text="text")
    assert kept.input_ids.count(end) == 4
    assert plain.input_ids.count(end) == 2
    assert plain.text == kept.text
    assert codes(plain) == {"special_token_in_text"}
    prompt = encode_prompt(made, messages[:1], special_tokens_in_text="text")
    assert plain.input_ids[: len(prompt)] == prompt
    assert [label for label in plain.labels if label != IGNORE].count(end) == 1
    covered = 0
    for start, stop in plain.offsets:
        assert start <= covered
        covered = max(covered, stop)
    assert covered == len(plain.text)


def test_data_12_thinking_and_call_tags_are_ordinary_words_of_an_answer():
    made = copy.deepcopy(tokenizer("chatml"))
    made.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    assert (
        codes(encode_conversation(made, [ASK, {"role": "assistant", "content": "<think>\na\n</think>\n\nb"}])) == set()
    )


def test_data_12_typed_tokens_in_calls_and_functions_are_found_too():
    made = zoo("qwen2_5")
    call = {"type": "function", "function": {"name": "look", "arguments": {"place": TYPED}}}
    messages = [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]
    encoded = encode_conversation(made, messages)
    assert ("special_token_in_text", 1) in [(f.code, f.message) for f in encoded.flags]
    assert json.dumps(TYPED) in encoded.text


def test_marks_of_typed_tokens_do_not_meet_what_a_message_already_holds():
    specials = Specials.of(tokenizer("chatml"))
    text = "\ue000<|im_end|>0\ue000 1<|im_end|><|im_start|>"
    hidden = hide_typed([{"role": "user", "content": text}], None, specials)
    assert "<|im_" not in hidden.messages[0]["content"]
    revealed, typed, moved = hidden.reveal(hidden.messages[0]["content"])
    assert revealed == text
    assert [text[a:b] for a, b in typed] == ["<|im_end|>", "<|im_end|>", "<|im_start|>"]
    assert moved(len(hidden.messages[0]["content"])) == len(text)


@pytest.mark.parametrize("printed", ["arguments | string", "arguments | tojson(ensure_ascii=True)"])
def test_data_12_a_typed_token_in_arguments_that_a_template_prints_comes_back_whole(printed):
    made = copy.deepcopy(tokenizer("chatml"))
    call = "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function." + printed + " }}{% endfor %}"
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + call + "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    function = {"name": "look", "arguments": {"q": "say <|im_end|> now"}}
    encoded = encode_conversation(
        made, [ASK, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}]
    )
    assert "say <|im_end|> now" in encoded.text
    assert encoded.text.count("<|im_end|>") == 3


def test_data_12_a_typed_token_that_is_cut_or_left_out_is_noticed():
    specials = Specials.of(tokenizer("chatml"))
    hidden = hide_typed([{"role": "user", "content": "say <|im_end|> now"}], None, specials)
    assert not hidden.is_damaged(hidden.messages[0]["content"])
    assert hidden.is_damaged(hidden.messages[0]["content"][:-6])
    assert hidden.missing("") == [0]


def with_bos(kind: str):
    from tokenizers import processors

    made = copy.deepcopy(tokenizer("llama3", kind))
    first = made.bos_token
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, made.bos_token_id)]
    )
    return made


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "sentencepiece-prefixed"])
def test_data_13_plain_text_begins_as_the_tokenizer_begins_every_text(kind):
    made = with_bos(kind)
    text = "The capital of France is Paris."
    encoded = encode_text(made, text)
    assert encoded.input_ids == [*made(text)["input_ids"], made.eos_token_id]
    assert encoded.labels == encoded.input_ids


def test_data_13_plain_text_gets_no_beginning_that_the_tokenizer_does_not_add():
    made = tokenizer("llama3")
    assert encode_text(made, "text").input_ids[0] != made.bos_token_id


def test_data_12_a_special_token_in_plain_text_is_reported_and_is_text_by_choice():
    made = tokenizer("chatml")
    end = made.eos_token_id
    row = {"text": f"one{made.eos_token}two", "messages": None}
    (kept,) = encode_batch(made, [row], DataSpec())
    (plain,) = encode_batch(made, [row], DataSpec(special_tokens_in_text="text"))
    assert (kept.input_ids.count(end), plain.input_ids.count(end)) == (2, 1)
    assert codes(kept) == codes(plain) == {"special_token_in_text"}


def test_data_16_the_row_of_a_call_its_result_and_a_reply_is_taken_by_qwen3():
    made = zoo("qwen3")
    call = {"type": "function", "function": {"name": "look", "arguments": {"place": "Rome"}}}
    messages = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "seventeen degrees"},
        {"role": "assistant", "content": "It is warm."},
    ]
    encoded = encode_conversation(made, messages)
    said = trained(made, encoded)
    assert '<tool_call>\n{"name": "look", "arguments": {"place": "Rome"}}\n</tool_call><|im_end|>' in said
    assert said.endswith("<think>\n\n</think>\n\nIt is warm.<|im_end|>")
    assert "seventeen" not in said
    for index in (1, 3):
        prompt = encode_prompt(made, messages[:index])
        assert encoded.input_ids[: len(prompt)] == prompt


def test_data_16_an_answer_that_is_cut_says_that_its_end_token_is_lost():
    messages = [ASK, {"role": "assistant", "content": "one two three four five six"}]
    whole = encode_conversation(tokenizer("chatml"), messages)
    cut = encode_conversation(tokenizer("chatml"), messages, max_length=len(whole.input_ids) - 4)
    assert codes(whole) == set()
    assert codes(cut) == {"end_token_cut"}


def test_data_16_a_refusal_has_a_code_the_rendered_row_and_the_place():
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(StudioError) as caught:
        encode_conversation(made, [{"role": "user", "content": TYPED}, {"role": "assistant", "content": "answer"}])
    error = caught.value
    assert error.code == "turn_not_closed"
    assert TYPED in error.text
    start, end = error.place
    assert error.text[start:end] == "answer"
