"""Which device computes, and with how many threads."""

import torch

from seqtool.config import Device
from seqtool.errors import ConfigError


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


def set_up(device: Device, threads: int | None) -> torch.device:
    """Set threads and denormals once at the beginning of a command; gives the device."""
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # saturated units make denormals, a hundred times slower
    return torch_device(device)
