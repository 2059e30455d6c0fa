"""Which device computes, and with how many threads."""

from collections.abc import Mapping

import torch
from torch import Tensor

from seqtool.config import Device
from seqtool.errors import ConfigError
from seqtool.memory import keep_memory


def torch_device(device: Device) -> torch.device:
    """The device that a flag names; ``auto`` is a GPU if torch finds one, else the CPU.

    Raises:
        ConfigError: If there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device, True):
        raise ConfigError(f"--device {device}: PyTorch finds no such device here; use --device cpu")
    return torch.device(device)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Copies of torch's random generators that computing on a device draws from, by name."""
    states = {"rng": torch.get_rng_state()}
    if device.type == "cuda":  # dropout draws there
        states["rng_cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: Mapping[str, Tensor], device: torch.device, *, seed: int) -> None:
    """Put back what ``generator_states`` gave, among other tensors.

    A run that has moved to a GPU from another device goes on with ``seed`` there: what it draws has
    to be repeatable, and cannot be what it would have drawn where it began.
    """
    torch.set_rng_state(states["rng"])
    if device.type != "cuda":
        return
    if "rng_cuda" in states:
        torch.cuda.set_rng_state(states["rng_cuda"], device)
    else:
        torch.cuda.manual_seed(seed % 2**64)


def set_up(device: Device, threads: int | None) -> torch.device:
    """Set threads, memory and denormals once at the beginning of a command; gives the device."""
    keep_memory()
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # saturated units make denormals, a hundred times slower
    return torch_device(device)
