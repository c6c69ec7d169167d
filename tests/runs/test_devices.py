"""Which devices there are, from what nvidia-smi lists and CUDA_VISIBLE_DEVICES says."""

import pytest

from studio.recipe import Recipe
from studio.runs import devices
from studio.runs.devices import chosen, environment, listed, visible_devices

TWO = """GPU 0: NVIDIA A (UUID: GPU-1111)
GPU 1: NVIDIA B (UUID: GPU-2222)
"""
PARTED = """GPU 0: NVIDIA A (UUID: GPU-1111)
  MIG 3g.40gb     Device  0: (UUID: MIG-aaaa)
  MIG 3g.40gb     Device  1: (UUID: MIG-bbbb)
GPU 1: NVIDIA B (UUID: GPU-2222)
"""


def test_gpus_are_taken_by_number_and_partitions_by_id():
    assert listed(TWO) == ["0", "1"]
    assert listed(PARTED) == ["MIG-aaaa", "MIG-bbbb", "1"]
    assert listed("") == []


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ("0", "1", "cpu")),
        ("1", ("1", "cpu")),
        ("GPU-2222, 0", ("GPU-2222", "0", "cpu")),
        ("", ("cpu",)),
        ("0,-1,1", ("0", "cpu")),
    ],
)
def test_the_variable_decides_where_it_is_set(monkeypatch, variable, expected):
    monkeypatch.setattr(devices, "_listing", lambda: TWO)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_devices() == expected


def test_without_a_driver_there_is_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_devices() == ("cpu",)


@pytest.mark.parametrize(
    ("device", "free", "gpus", "expected"),
    [
        ("auto", ["1", "cpu"], 2, ["1"]),
        ("auto", ["cpu"], 2, None),
        ("auto", ["cpu"], 0, ["cpu"]),
        ("cpu", ["0", "cpu"], 1, ["cpu"]),
        ("cuda", [], 0, None),
    ],
)
def test_a_run_waits_for_a_device_of_its_kind(device, free, gpus, expected):
    recipe = Recipe()
    recipe.train.device = device
    assert chosen(recipe, free, gpus) == expected


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [(2, ["0", "1", "cpu"], ["0", "1"]), (2, ["1", "cpu"], None), (4, ["0", "1", "cpu"], ["0", "1"]), (4, ["1"], None)],
)
def test_a_run_over_several_gpus_waits_for_them_and_one_that_wants_too_many_gets_all_and_is_refused_there(
    wanted, free, expected
):
    recipe = Recipe()
    recipe.train.num_processes = wanted
    assert chosen(recipe, free, 2) == expected


def test_a_run_on_the_cpu_sees_no_gpu():
    assert environment(["cpu"]) == {"CUDA_VISIBLE_DEVICES": ""}
    assert environment(["0", "MIG-a"]) == {"CUDA_VISIBLE_DEVICES": "0,MIG-a"}
