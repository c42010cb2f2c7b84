"""Entry point of `python -m charladder`, for torchrun and where `charladder` is not on the path."""

import os

if "TORCHELASTIC_RUN_ID" in os.environ:  # else DDP warns in every process that all parameters are used
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from charladder.cli.main import command

command()
