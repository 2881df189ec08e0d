"""Exact float32 and deterministic kernels on CUDA; a CPU is left alone."""

import os

import pytest
import torch

from finetune.devices import compute_exactly, device_name


@pytest.fixture
def switches(monkeypatch):
    """torch's switches of the process, put back afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "x")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    cudnn.allow_tf32 = cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    yield lambda: (cudnn.allow_tf32, torch.get_float32_matmul_precision(), cudnn.benchmark,
                   torch.are_deterministic_algorithms_enabled(),
                   "CUBLAS_WORKSPACE_CONFIG" in os.environ)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(precision)
    (cudnn.allow_tf32, cudnn.benchmark,
     torch.utils.deterministic.fill_uninitialized_memory) = before


def test_cuda_computes_float32_in_float32_and_deterministically(switches):
    compute_exactly(torch.device("cuda"))
    assert switches() == (False, "highest", False, True, True)


def test_other_devices_are_left_alone(switches):
    before = switches()
    compute_exactly(torch.device("cpu"))
    assert switches() == before == (True, "high", True, False, False)


def test_a_setting_of_the_user_stands(switches, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    compute_exactly(torch.device("cuda"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_device_is_named():
    assert device_name(torch.device("cpu")) == "cpu"
