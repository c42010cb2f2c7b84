"""The model class `charladder` for lm-evaluation-harness, and its command with this class and with tasks.

python -m charladder.export.lm_eval run --model charladder --model_args run=runs/ladder-1 --tasks charladder_text \\
    --metadata data=novel.txt

lm-evaluation-harness has no entry points for model classes: importing this module registers the class.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from charladder.errors import UserError
from charladder.export.harness_model import HarnessModel
from charladder.run import open_run

TASKS = Path(__file__).parent / "harness_tasks"
_MISSING = (
    'lm-evaluation-harness (the package lm_eval) is not installed; install it with pip install "charladder[harness]"'
)

try:
    # The harness registers its own classes only while no other class is registered.
    import lm_eval.models  # noqa: F401  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from tqdm import tqdm
except ImportError as error:
    if __name__ != "__main__":
        raise ImportError(_MISSING) from error
    print(f"charladder: {_MISSING}", file=sys.stderr)
    sys.exit(2)


@register_model("charladder")
class CharladderLM(LM):
    """A run as a model of lm-evaluation-harness.

    run: the run directory; the harness passes a number for a name of digits. weights: `last` or `best`. context,
    stride, prefix_token_id: see HarnessModel. A token is a symbol of the alphabet. max_batch_size is accepted and
    ignored. Raises UserError for a run that cannot be opened.
    """

    def __init__(
        self,
        run: str | int,
        weights: str = "last",
        context: int | None = None,
        stride: int | None = None,
        prefix_token_id: int | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if weights not in ("last", "best"):
            raise UserError(field="weights", value=weights, rule="it must be last or best")
        # The harness passes cuda:0 where its user gives no device.
        no_device = device is None or (str(device).startswith("cuda") and not torch.cuda.is_available())
        # It passes 1 where they give no batch size, which may also be `auto`. Only texts of generate_until have one.
        number = str(batch_size)
        size = int(number) if number.isdecimal() and number != "1" else 16
        self.model = HarnessModel(
            open_run(Path(str(run)), weights),
            context,
            stride,
            prefix_token_id,
            "auto" if no_device else str(device),
            size,
        )

    @property
    def tokenizer_name(self) -> str:
        return "charladder"

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = [request.args for request in requests]
        with tqdm(desc="loglikelihood", unit=" characters", disable=disable_tqdm) as bar:
            results = self.model.loglikelihood(pairs, lambda characters: _move(bar, characters))
        for pair, result in zip(pairs, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, result)
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        size = sum(len(text.encode(errors="replace")) for text in texts)
        with tqdm(desc="loglikelihood_rolling", total=size, unit=" bytes", disable=disable_tqdm) as bar:
            results = self.model.loglikelihood_rolling(texts, lambda characters: _move(bar, characters))
        for text, result in zip(texts, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), result)
        return results

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        pairs = [request.args for request in requests]
        texts = self.model.generate_until(pairs)
        for pair, text in zip(pairs, texts, strict=True):
            self.cache_hook.add_partial("generate_until", pair, text)
        return texts


def _move(bar: Any, characters: int) -> None:
    bar.update(characters - bar.n)


def main(argv: list[str]) -> int:
    """Runs the command of lm-evaluation-harness with the tasks of this package; returns the exit code."""
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    takes_tasks = argv[:1] and (argv[0] in ("run", "ls", "validate") or argv[0].startswith("-"))
    has_path = any(argument.partition("=")[0] == "--include_path" for argument in argv)
    if takes_tasks and not has_path and not {"-h", "--help"} & set(argv):
        argv = [*argv, "--include_path", str(TASKS)]
    sys.argv = ["python -m charladder.export.lm_eval", *argv]
    try:
        cli_evaluate()
    except UserError as error:
        print(f"charladder: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
