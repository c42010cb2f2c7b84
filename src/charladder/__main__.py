"""`python -m charladder`, for torchrun and where the command is not on the path."""

import sys

from charladder.cli.main import main

sys.exit(main())
