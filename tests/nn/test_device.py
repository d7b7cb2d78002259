"""Devices and precisions: what is asked for, what is there, and what is said when it is not."""

import pytest
import torch

from gigacli.errors import InvalidInput
from gigacli.nn.device import pick_device, pick_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def cuda(monkeypatch):
    """``cuda(2)``: a machine on which torch sees that many CUDA devices."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_auto_takes_cuda_where_there_is_one(cuda):
    cuda(0)
    assert pick_device("auto") == CPU
    cuda(1)
    assert pick_device("auto") == CUDA


def test_what_is_there_can_be_named(cuda):
    cuda(2)
    assert pick_device("cpu") == CPU
    assert pick_device("cuda") == CUDA
    assert pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (2, "cuda:7")])
def test_what_is_not_there_is_refused_with_what_is(cuda, count, name):
    cuda(count)
    with pytest.raises(InvalidInput, match=f"{name}'.* {count} CUDA") as caught:
        pick_device(name)
    assert "`device='cpu'`" in caught.value.hint


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "meta", "mps", "CPU "])
def test_what_is_no_device_of_ours_is_refused(name):
    with pytest.raises(InvalidInput, match="auto, cpu, cuda or cuda:I") as caught:
        pick_device(name)
    assert repr(name) in caught.value.message


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_a_named_precision_is_taken(name):
    assert pick_precision(name, CPU) == name
    assert pick_precision(name, CUDA) == name


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "avx2": True}, "fp32"),
        ({"avx2": True}, "fp32"),
    ],
)
def test_auto_is_bf16_on_processors_that_compute_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pick_precision("auto", CPU) == expected


def test_auto_is_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert pick_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_gpus_that_do_not_emulate_it(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert pick_precision("auto", CUDA) == expected


def test_what_this_torch_says_of_this_processor_is_understood():
    assert pick_precision("auto", CPU) in ("bf16", "fp32")
    assert pick_device("auto").type in ("cpu", "cuda")
