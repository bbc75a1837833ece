"""Whether a tensor's memory can be written to: a read-only memory map would end the process, not raise."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

_MAPS = Path("/proc/self/maps")


def is_writable(tensor: Tensor) -> bool:
    """False where the operating system says that the memory is read-only; True where it cannot be asked.

    Source: the permissions column of /proc/self/maps (Linux).
    """
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.numel() == 0:
        return True
    address = tensor.data_ptr()
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return True
    for line in lines:
        span, permissions, *_ = line.split()
        low, high = (int(edge, 16) for edge in span.split("-"))
        if low <= address < high:
            return "w" in permissions
    return True
