"""The network in plain PyTorch. The heads of auxiliary losses are in the objective, not here."""

from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout
from charladder.model.kv_cache import KVCache
from charladder.model.transformer import ModelOutput, Transformer

__all__ = ["Dropout", "KVCache", "ModelConfig", "ModelOutput", "Transformer"]
