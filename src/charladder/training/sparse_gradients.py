"""Parameters whose gradients are sparse: a step touches the rows that it reads."""

from torch import nn


def sparse_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The weights of the embeddings made with `sparse=True`."""
    embeddings = [each for each in module.modules() if isinstance(each, nn.Embedding) and each.sparse]
    return [parameter for embedding in embeddings for parameter in embedding.parameters()]
