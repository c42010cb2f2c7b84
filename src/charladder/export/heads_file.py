"""The auxiliary heads of a run as a safetensors file beside an exported network.

Names: the classifier of layer l for the character k ahead is `layer{l}.target{k}.weight`, of shape (symbols, width).
A chained module has `layer{l}.target{k}.` before `state_norm.weight`, `embedding_norm.weight`, `projection.weight`,
and `block.` before the names that a layer has in Qwen3, such as `block.self_attn.q_proj.weight`.

Metadata: `format` is pt; `input` says what the classifiers of intermediate layers read, the hidden state `normed` by
layer_norm without parameters, or `plain`. Those of the last layer read the state after the final norm.
"""

from pathlib import Path

from charladder.errors import UserError
from charladder.export.layout import QWEN3, Precision, to_precision
from charladder.objective import LanguageModelObjective
from charladder.run import Run
from charladder.training.tensor_files import save_tensors

HEADS_FILE = "heads.safetensors"


def load_heads(run: Run) -> LanguageModelObjective:
    """The objective of a run with its trained heads. Raises UserError if it has none."""
    objective = run.load_objective()
    if not len(objective.heads):
        raise UserError(f"{run.path} has no auxiliary heads: its objective has one loss; leave --heads out")
    return objective


def write_heads(folder: Path, objective: LanguageModelObjective, precision: Precision) -> None:
    """Writes the heads into the folder of an exported network. Raises OSError."""
    in_block = {f"block.{ours}": theirs for ours, theirs in QWEN3.of_layer("block.").items()}
    tensors = {}
    for key, head in objective.heads.items():
        for name, tensor in head.state_dict().items():
            tensors[f"{key.replace('_', '.')}.{in_block.get(name, name)}"] = tensor
    metadata = {"format": "pt", "input": objective.settings.intermediate_input}
    save_tensors(folder / HEADS_FILE, to_precision(tensors, precision), metadata)
