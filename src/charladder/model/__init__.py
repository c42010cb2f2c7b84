"""The network: what is deployed. Heads of auxiliary losses belong to the objective, not here."""

from charladder.model.cache import Cache
from charladder.model.dropout import Dropout
from charladder.model.settings import ModelSettings
from charladder.model.transformer import Output, Transformer

__all__ = ["Cache", "Dropout", "ModelSettings", "Output", "Transformer"]
