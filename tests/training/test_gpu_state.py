"""Utilisation and temperature of the GPU, where the driver tells them."""

import sys
from types import SimpleNamespace

import pytest
import torch

from studio.training.gpu_state import gpu_state


class NVMLError(Exception):
    """As the management library raises it."""


@pytest.fixture
def management_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError))


def refuse():
    raise NVMLError


def test_without_a_gpu_nothing_is_said():
    assert gpu_state("cpu") == {}


def test_without_the_management_library_nothing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_state("cuda") == {}


def test_what_the_driver_says_is_written(monkeypatch, management_library):
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 93)
    monkeypatch.setattr(torch.cuda, "temperature", lambda: 61)
    assert gpu_state("cuda") == {"gpu_utilization": 93, "gpu_temperature": 61}


def test_what_the_driver_refuses_is_left_out(monkeypatch, management_library):
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    monkeypatch.setattr(torch.cuda, "temperature", lambda: 61)
    assert gpu_state("cuda") == {"gpu_temperature": 61}


@pytest.mark.gpu
def test_a_real_gpu_tells_both_or_nothing():
    assert set(gpu_state("cuda")) in (set(), {"gpu_utilization", "gpu_temperature"})
