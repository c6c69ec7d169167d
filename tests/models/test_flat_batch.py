"""A batch as one row of its different tokens: where they lie, and that every family of models says the same of it."""

import copy

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from studio.models import attention
from studio.models.flat_batch import in_rows, is_layout, layout_of, missing_columns, rounded
from studio.models.head import LabelledLogits

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SMALL),
    "qwen2": transformers.Qwen2Config(**SMALL),
    "qwen3": transformers.Qwen3Config(**SMALL, head_dim=8),
    "phi3": transformers.Phi3Config(**SMALL, pad_token_id=0),
    "gpt_neox": transformers.GPTNeoXConfig(**SIZES, intermediate_size=48, hidden_dropout=0.0, attention_dropout=0.0),
    "gpt2": transformers.GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=4, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0
    ),
    "bloom": transformers.BloomConfig(**SIZES, hidden_dropout=0.0, attention_dropout=0.0),
    "opt": transformers.OPTConfig(**SIZES, ffn_dim=48, dropout=0.0, attention_dropout=0.0, word_embed_proj_dim=32),
}


def model_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).double().train()


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Four rows with 7 tokens in common, of which three are padded."""
    ids = torch.randint(1, 60, (4, 22), generator=torch.Generator().manual_seed(seed))
    ids[:, :7] = ids[0, :7]
    ids[:, 7] = torch.arange(4)
    mask = torch.ones_like(ids)
    mask[1, 13:], mask[2, 21:], mask[3, 9:] = 0, 0, 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :8] = -100
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_every_family_says_of_one_row_is_what_it_says_of_padded_rows(name):
    model, inputs = model_of(name), batch()
    found = []
    for one_row in (False, True):
        head = LabelledLogits(model, one_row)
        model.zero_grad()
        logits = head(**inputs)[0]
        logits.sin().sum().backward()
        found.append((logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    # what is not told where rows begin, as positions made from the mask, is found out, and keeps its padding
    assert head.one_row is (name != "bloom")
    (logits, expected), (others, gradients) = found
    torch.testing.assert_close(others, logits, rtol=1e-6, atol=1e-9)
    assert gradients.keys() == expected.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-5)  # norms are float32


@pytest.mark.parametrize("name", [*attention.UNDERSTAND_ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_kernels_understand_rows_in_any_number_format(name, dtype):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"])).to(dtype)
    model.set_attn_implementation(attention.registered(name))
    logits = [LabelledLogits(model, one_row)(**batch())[0].float() for one_row in (False, True)]
    off = (logits[0] - logits[1]).norm() / logits[0].norm()
    assert off < (1e-5 if dtype == torch.float32 else 2e-2)


def test_other_kernels_and_other_settings_keep_padded_rows():
    model = model_of("llama")
    assert LabelledLogits(model).one_row is None  # a batch decides
    assert LabelledLogits(model, one_row=False).one_row is False
    model.set_attn_implementation("eager")
    assert LabelledLogits(model).one_row is False


def test_the_one_row_has_few_lengths():
    assert [rounded(n) for n in (0, 1, 16, 17, 176, 177, 191, 192, 193, 224, 225)] == [
        *(0, 16, 16, 32, 176, 192, 192, 192, 224, 224, 256)
    ]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    shared=st.integers(0, 30),
)
def test_every_token_has_one_place_and_every_row_finds_all_its_tokens(lengths, shared):
    longest, shared = max(lengths), min(shared, min(lengths)) if len(lengths) > 1 else 0
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths])
    before = mask.clone()
    layout, tokens = layout_of(mask, shared)
    assert torch.equal(mask, before)
    assert is_layout(layout) and not is_layout(mask) and not is_layout(layout.bool())
    assert layout.shape == (1 + shared, 2, len(lengths), longest)
    assert len(set(tokens.tolist())) == len(tokens)
    needed = sum(lengths) - shared * (len(lengths) - 1)
    padding = len(lengths) * longest - sum(lengths)
    assert len(tokens) == min(needed + padding, rounded(needed))
    numbers = torch.arange(len(lengths) * longest).view(len(lengths), longest)
    for row, length in enumerate(lengths):  # the tokens that a row finds are its own, or the first row's beginning
        own = numbers[row, :length].clone()
        own[:shared] = numbers[0, :shared]
        assert torch.equal(tokens[layout[0, 0, row, :length]], own)
    assert torch.equal(layout[0, 1].flatten()[: len(tokens)], tokens)
    more = missing_columns(mask, shared)
    assert len(layout_of(torch.nn.functional.pad(mask, (0, more)), shared)[1]) == rounded(needed)


def test_columns_are_added_where_no_padding_fills_the_row_up_and_learned_positions_stay_in_bounds():
    config = copy.deepcopy(CONFIGS["gpt2"])
    config.n_positions = 22  # as long as the rows are
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).double()
    inputs = batch() | {"attention_mask": torch.ones(4, 22, dtype=torch.long)}
    inputs["labels"] = inputs["input_ids"].clone()
    inputs["labels"][:, :8] = -100
    widths = []
    model.get_input_embeddings().register_forward_hook(lambda module, given, out: widths.append(out.shape[1]))
    padded, one_row = (LabelledLogits(model, each) for each in (False, True))
    torch.testing.assert_close(one_row(**inputs)[0], padded(**inputs)[0], rtol=1e-6, atol=1e-9)
    assert one_row.one_row is True
    assert 80 in widths  # 7 together and 15 of each: 67


def test_a_mask_that_is_none_of_ours_goes_through_as_it_is():
    seen = []

    def attend(module, query, key, value, mask, **options):
        seen.append((query.dtype, mask, options))
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    module = torch.nn.Module()
    module.is_causal = True
    query, key, value = (torch.randn(2, heads, 5, 8).bfloat16() for heads in (4, 4, 4))
    mask = torch.zeros(2, 1, 5, 5).bfloat16()
    out, _ = in_rows(attend, torch.float32)(module, query, key, value, mask, scaling=0.5)
    assert out.dtype == torch.bfloat16 and out.shape == (2, 5, 4, 8)
    assert seen[0][0] == torch.float32 and seen[0][1].dtype == torch.float32 and seen[0][2] == {"scaling": 0.5}
    in_rows(attend)(module, query, key, value, None)
    assert seen[1][0] == torch.bfloat16 and seen[1][1] is None
