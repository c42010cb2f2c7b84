"""`python -m charladder`, for torchrun and where the command is not on the path."""

import os

if "TORCHELASTIC_RUN_ID" in os.environ:  # one of several: DDP would warn on each that no layer is silent yet
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from charladder.cli.main import command

command()
