"""Numbers from a model's files are bounded before they size anything."""

import json
import math
import struct

import pytest
from tiny import set_config

from studio.errors import StudioError
from studio.models.convert import convert
from studio.models.headers import read_config, read_headers, read_json
from studio.models.load import load_model, load_tokenizer
from studio.models.model_info import describe
from studio.recipe import ModelSpec


@pytest.fixture
def model(tiny_model, tmp_path):
    import shutil

    return shutil.copytree(tiny_model, tmp_path / "model")


def code_of(act) -> str:
    with pytest.raises(StudioError) as caught:
        act()
    return caught.value.code


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 100_000_000),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", "two"),
        ("num_hidden_layers", True),
        ("num_hidden_layers", {"a": 1}),
        ("hidden_size", 10**30),
        ("hidden_size", math.nan),
        ("hidden_size", 0),
        ("intermediate_size", 1.5),
        ("num_attention_heads", 0),
        ("vocab_size", 10**12),
        ("vocab_size", [100, 10**12]),
        ("max_position_embeddings", math.inf),
        ("text_config", {"num_hidden_layers": 10**8}),
    ],
)
def test_security_05_a_size_that_no_model_has_is_refused_wherever_it_is_read(home, model, key, value):
    set_config(model, **{key: value})
    spec = ModelSpec(id=str(model))
    for act in (
        lambda: read_config(model),
        lambda: describe(spec),
        lambda: load_tokenizer(model),
        lambda: load_model(spec),
    ):
        assert code_of(act) == "config_out_of_bounds"


def test_security_05_a_configuration_that_describes_more_than_its_files_hold_is_refused(home, model):
    set_config(model, num_hidden_layers=1000, hidden_size=8192, intermediate_size=65536)
    assert code_of(lambda: load_model(ModelSpec(id=str(model)))) == "config_exceeds_weights"


def test_security_05_a_configuration_with_odd_values_has_a_card_all_the_same(home, model):
    odd = {"architectures": {"a": 1}, "quantization_config": "x", "torch_dtype": [1], "dtype": {"a": 1}, "auto_map": 3}
    set_config(model, **odd)
    card = describe(ModelSpec(id=str(model)))
    assert card.parameters > 0
    assert isinstance(card.architecture, str)


def test_security_05_deep_and_long_json_is_refused(model):
    (model / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(StudioError):
        read_config(model)
    nested = {}
    for _ in range(50):
        nested = {"a": nested}
    (model / "config.json").write_text(json.dumps(nested))
    assert code_of(lambda: read_config(model)) == "config_out_of_bounds"
    (model / "long.json").write_text('"' + "a" * 2000 + '"')
    with pytest.raises(StudioError):
        read_json(model / "long.json", missing=None, most_bytes=1000)


@pytest.mark.parametrize("shape", [[2**60], [-1], ["a"], [1.5], [1] * 9, [True]])
def test_security_05_a_tensor_of_an_impossible_shape_is_refused(tmp_path, shape):
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(StudioError):
        read_headers(tmp_path)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(values: int, tensors: int, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + body


HOSTILE = {
    "no header": b"GGUF",
    "cut": gguf(1, 0)[:14],
    "another version": gguf(0, 0, version=99),
    "many values": gguf(2**60, 0),
    "many tensors": gguf(0, 2**60),
    "a long key": gguf(1, 0, struct.pack("<Q", 2**62)),
    "a long text": gguf(1, 0, text("a") + struct.pack("<IQ", 8, 2**62)),
    "a long list": gguf(1, 0, text("a") + struct.pack("<IIQ", 9, 4, 2**62)),
    "a list of lists": gguf(1, 0, text("a") + struct.pack("<IIQ", 9, 9, 1)),
    "a list that is not there": gguf(1, 0, text("a") + struct.pack("<IIQ", 9, 4, 1_000_000)),
    "an unknown type": gguf(1, 0, text("a") + struct.pack("<I", 77)),
    "many dimensions": gguf(0, 1, text("a") + struct.pack("<I", 2**31)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_security_10_a_hostile_gguf_header_is_refused_without_being_built(name, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(StudioError) as caught:
        convert(path, tmp_path / "out")
    assert caught.value.code == "gguf_broken"
    for internal in ("struct", "unpack", "buffer"):
        assert internal not in str(caught.value)
