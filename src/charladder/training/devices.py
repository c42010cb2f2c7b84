"""The device and the precision of a run; the choice of `auto` on this machine."""

import torch

from charladder.errors import UserError
from charladder.training.distributed import local_rank


def choose_device(name: str) -> torch.device:
    """The device called `name`. `auto` is a CUDA device (the first, under torchrun that of the local rank) or the CPU.

    Raises UserError if the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(field="device", value=name, rule="use auto, cpu, cuda, cuda:1 or mps") from None
    if device == torch.device("cuda"):
        device = torch.device("cuda", local_rank())
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        available = [kind for kind, count in counts.items() if count]
        raise UserError(field="device", value=name, rule=f"this machine has only {', '.join(available)}")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of activations. `auto` is bfloat16 if the hardware multiplies it, else float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if native else torch.float32
