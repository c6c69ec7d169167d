"""What Ollama writes before the model's answer is what the run's chat template writes."""

import re

import pytest
from go_subset import render
from tiny import CHATML, make_tiny_tokenizer

from studio.errors import StudioError
from studio.export import export
from studio.export.go_templates import GO, translate
from studio.models.chat import prepare_chat
from studio.models.templates import BUILTIN

SYSTEM = [{"role": "system", "content": "Answer in one word."}]
ONE = [{"role": "user", "content": "What is {{ this }}?\nSay it."}]
THREE = [
    *ONE,
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "And that?"},
    {"role": "assistant", "content": "A dog."},
    {"role": "user", "content": "Thanks; and the third?"},
]
LLAMA_LIKE = (  # trims what is said, as many models' own templates do
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)


def tokenizer_of(chat_template="auto", own=None):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=make_tiny_tokenizer(["<s>", "</s>"]), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if own:
        made.chat_template = own
    else:
        prepare_chat(made, None, chat_template)
    return made


@pytest.mark.parametrize("messages", [ONE, THREE], ids=["one turn", "three turns"])
@pytest.mark.parametrize("system", [[], SYSTEM], ids=["bare", "system"])
@pytest.mark.parametrize("family", list(BUILTIN))
def test_both_templates_write_the_same(family, system, messages):
    tokenizer = tokenizer_of(family)
    known = translate(tokenizer)
    wanted = tokenizer.apply_chat_template([*system, *messages], add_generation_prompt=True, tokenize=False)
    assert known.family == family
    assert render(known.template, [*system, *messages]) == wanted


def test_every_family_of_the_studio_is_translated():
    assert set(GO) == set(BUILTIN)


def test_a_system_message_of_the_templates_own_becomes_the_modelfiles(tmp_path):
    """As in SmolLM2-Instruct: it is there unless the conversation brings one."""
    own = (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a cat.<|im_end|>\\n' }}{% endif %}" + CHATML
    )
    tokenizer = tokenizer_of(own=own)
    known = translate(tokenizer)
    assert (known.family, known.system) == ("chatml", "You are a cat.")
    wanted = tokenizer.apply_chat_template(THREE, add_generation_prompt=True, tokenize=False)
    assert render(known.template, [{"role": "system", "content": known.system}, *THREE]) == wanted


def test_what_begins_a_sequence_is_left_to_ollama_and_trimming_is_told():
    known = translate(tokenizer_of(own=LLAMA_LIKE))
    assert known.family == "llama3"
    assert "takes blanks off" in known.notes[0]
    assert "<s>" not in known.template


@pytest.mark.parametrize(
    "own",
    [
        CHATML.replace("message['content']", "message['content'] | upper"),
        CHATML + "{% if messages | length > 3 %}!{% endif %}",
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}",
        "{{ raise_exception('no') }}",
        CHATML.replace("message['content']", "message['content'].replace(' ', '_')"),
    ],
)
def test_a_template_of_no_known_family_is_refused(own):
    with pytest.raises(StudioError, match="a guess would change"):
        translate(tokenizer_of(own=own))


def test_a_template_that_leaves_earlier_reasoning_out_is_told():
    own = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    assert "reasoning" in translate(tokenizer_of(own=own)).notes[0]


def test_the_recipes_system_message_is_the_modelfiles(run_of, tmp_path):
    export(run_of(data={"system_prompt": "Say a colour."}), "ollama", tmp_path / "out")
    assert 'SYSTEM """Say a colour."""' in (tmp_path / "out/Modelfile").read_text()


def test_a_modelfile_names_the_model_the_template_and_the_stop_tokens(run_of, tmp_path):
    run = run_of()
    made = export(run, "ollama", tmp_path / "out")
    text = (tmp_path / "out/Modelfile").read_text()
    assert "\nFROM ./model\n" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.S)[1]
    assert render(template, ONE).endswith("<|im_start|>assistant\n")
    assert (tmp_path / "out/model/model.safetensors").exists()
    assert any("ollama create" in line for line in made.told)


def test_a_run_with_a_template_of_its_own_is_refused_before_anything_is_merged(run_of, tmp_path):
    run = run_of(
        data={"chat_template": "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|im_end|>{% endfor %}"}
    )
    with pytest.raises(StudioError, match="none of those that are translated"):
        export(run, "ollama", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_10_a_modelfile_stops_at_every_end_of_the_template_and_the_tokenizer(tiny_model, tmp_path):
    from types import SimpleNamespace

    from transformers import AutoTokenizer

    from studio.export.ollama import stop_texts

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = "<|endoftext|>"
    assert set(stop_texts(tokenizer, SimpleNamespace(end="<|im_end|>"), tmp_path)) == {"<|im_end|>", "<|endoftext|>"}
