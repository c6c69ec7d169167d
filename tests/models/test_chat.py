"""prepare_chat: templates, tokens and embeddings."""

import pytest

from studio.errors import StudioError
from studio.models.chat import CHATML, prepare_chat
from studio.models.load import load_model, load_tokenizer
from studio.recipe import ModelSpec

TALK = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3?"},
    {"role": "assistant", "content": "It is 6."},
]


def model_of(folder):
    return load_model(ModelSpec(id=str(folder)), dtype="float32")


def test_a_template_of_its_own_is_kept(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    before, size = tokenizer.chat_template, len(tokenizer)
    notes = prepare_chat(tokenizer)
    assert (tokenizer.chat_template, len(tokenizer)) == (before, size)
    assert (list(notes), notes.new_token_ids) == ([], ())


def test_gpt2_gets_chatml_with_two_tokens_and_their_rows(tiny_gpt2):
    tokenizer, model = load_tokenizer(tiny_gpt2), model_of(tiny_gpt2)
    size = len(tokenizer)
    notes = prepare_chat(tokenizer, model)
    assert notes.new_token_ids == (size, size + 1)
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.get_input_embeddings().weight.shape[0] == size + 2
    assert model.config.vocab_size == size + 2
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert any("ChatML" in note for note in notes)


def test_gpt2_pads_with_a_token_that_is_not_the_end(tiny_gpt2):
    tokenizer = load_tokenizer(tiny_gpt2)
    prepare_chat(tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_preview_without_a_model_gives_the_same_ids(tiny_gpt2):
    preview, trained = load_tokenizer(tiny_gpt2), load_tokenizer(tiny_gpt2)
    prepare_chat(preview)
    prepare_chat(trained, model_of(tiny_gpt2))
    assert preview.apply_chat_template(TALK) == trained.apply_chat_template(TALK)


def test_preparing_twice_adds_nothing_more(tiny_gpt2):
    tokenizer, model = load_tokenizer(tiny_gpt2), model_of(tiny_gpt2)
    prepare_chat(tokenizer)
    size = len(tokenizer)
    prepare_chat(tokenizer, model)
    assert len(tokenizer) == size == model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("name", ["tiny_gpt2", "base_model"])
def test_new_rows_are_the_mean_whatever_the_seed(name, request):
    import torch

    rows = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        folder = request.getfixturevalue(name)
        tokenizer, model = load_tokenizer(folder), model_of(folder)
        old = model.get_input_embeddings().weight.detach().clone()
        ids = list(prepare_chat(tokenizer, model).new_token_ids)
        rows.append(model.get_input_embeddings().weight[ids].detach())
    assert torch.equal(*rows)
    assert torch.allclose(rows[0], old.mean(dim=0).expand_as(rows[0]), atol=1e-6)


def test_a_model_prepared_after_its_tokenizer_has_the_mean_too(tiny_gpt2):
    """The worker prepares the tokenizer first, for the data, and the model later."""
    import torch

    one, both = load_tokenizer(tiny_gpt2), load_tokenizer(tiny_gpt2)
    first, second = model_of(tiny_gpt2), model_of(tiny_gpt2)
    prepare_chat(one)
    prepare_chat(one, first)
    prepare_chat(both, second)
    assert torch.equal(first.get_input_embeddings().weight, second.get_input_embeddings().weight)
    assert first.generation_config.eos_token_id == second.generation_config.eos_token_id


def test_several_end_tokens_of_a_model_stay(tiny_model):
    tokenizer, model = load_tokenizer(tiny_model), model_of(tiny_model)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 0]
    prepare_chat(tokenizer, model)
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, 0]


def test_the_mask_holds_each_answer_and_its_end_and_no_newline(tiny_gpt2):
    tokenizer = load_tokenizer(tiny_gpt2)
    prepare_chat(tokenizer)
    done = tokenizer.apply_chat_template(TALK, return_assistant_tokens_mask=True, return_dict=True)
    kept = [i for i, m in zip(done["input_ids"], done["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(kept) == "It is 4.<|im_end|>It is 6.<|im_end|>"


def test_our_chatml_writes_what_everyones_chatml_writes(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    own = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True, chat_template=CHATML) == own


def test_forced_chatml_uses_the_tokens_that_are_there(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    size = len(tokenizer)
    notes = prepare_chat(tokenizer, chat_template="chatml")
    assert (len(tokenizer), notes.new_token_ids) == (size, ())
    assert tokenizer.chat_template == CHATML


def test_a_template_file_is_used(tiny_model, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    tokenizer = load_tokenizer(tiny_model)
    prepare_chat(tokenizer, chat_template=str(path))
    assert tokenizer.apply_chat_template(TALK[:1], tokenize=False).startswith("[user] What")


@pytest.mark.parametrize("text", ["{% for m in messages %}", "{{ nothing.at.all }}", "fixed text"])
def test_a_file_that_is_no_template_is_refused(tiny_model, tmp_path, text):
    path = tmp_path / "bad.jinja"
    path.write_text(text)
    with pytest.raises(StudioError) as caught:
        prepare_chat(load_tokenizer(tiny_model), chat_template=str(path))
    assert caught.value.field == "data.chat_template"


def test_a_missing_template_file_is_refused(tiny_model, tmp_path):
    with pytest.raises(StudioError, match="cannot be read"):
        prepare_chat(load_tokenizer(tiny_model), chat_template=str(tmp_path / "none.jinja"))
