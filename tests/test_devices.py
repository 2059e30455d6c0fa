"""Devices and their random generators; a GPU is faked, for tests run on machines without one."""

import platform
import subprocess
import sys

import pytest
import torch

from seqtool import devices
from seqtool.devices import generator_states, restore_generators, set_up, torch_device
from seqtool.errors import ConfigError

GPU = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor | int]:
    """A GPU of which nothing works but its generator; gives what that was set to."""
    held: dict[str, torch.Tensor | int] = {"state": torch.tensor([1, 2])}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: held["state"])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: held.update(state=state))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: held.update(state=seed))
    return held


def test_auto_is_a_gpu_if_there_is_one(gpu: object) -> None:
    assert torch_device("auto") == GPU
    assert torch_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"--device {name}: PyTorch finds no such device"):
        set_up(name, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [torch.device("cpu"), GPU])
def test_generators_go_on_where_they_were(device: torch.device, gpu: dict[str, object]) -> None:
    states = generator_states(device)
    drawn, gpu["state"] = torch.rand(3), torch.tensor([9])
    restore_generators(states, device, seed=5)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(gpu["state"], torch.tensor([9] if device.type == "cpu" else [1, 2]))  # type: ignore[arg-type]


def test_a_run_that_moves_to_a_gpu_takes_its_seed_there(gpu: dict[str, object]) -> None:
    states = generator_states(torch.device("cpu"))
    assert "rng_cuda" not in states
    restore_generators(states, GPU, seed=2**64 + 5)
    assert gpu["state"] == 5


def test_a_run_that_leaves_its_gpu_needs_none(gpu: dict[str, object]) -> None:
    states = generator_states(GPU)
    gpu["state"] = torch.tensor([9])
    restore_generators(states, torch.device("cpu"), seed=5)
    assert torch.equal(gpu["state"], torch.tensor([9]))  # type: ignore[arg-type]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries are left alone")
def test_freed_memory_is_not_fetched_again() -> None:
    code = """
import resource, torch
from seqtool.devices import set_up
set_up("cpu", 1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10**7)  # 40 MB: ten thousand pages of 4 KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*(faults() for _ in range(10)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, second_last, last = map(int, ran.stdout.split())  # small blocks settle in between
    assert max(second_last, last) < 100 < first


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is asked for there")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries are left alone")
def test_freed_memory_can_be_given_back() -> None:
    code = r"""
import re, torch
from seqtool.devices import set_up
from seqtool.memory import give_back
set_up("cpu", 1)
def megabytes():
    return int(re.search(r"RssAnon:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024
before = megabytes()
torch.ones(10**8)  # 400 MB
between = megabytes()
give_back()
print(before, between, megabytes())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, between, after = map(int, ran.stdout.split())
    assert after < before + 50 < between
