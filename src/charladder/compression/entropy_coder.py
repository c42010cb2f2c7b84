"""Arithmetic coding of symbols with the predictions of a network, by the range coder of the package constriction.

Shapes: R rows, each a symbol of another segment, V symbols of the alphabet, W 32-bit words.
"""

import importlib
from typing import Any

import numpy as np

from charladder.errors import UserError


class Encoder:
    """Encodes symbols into 32-bit words, which are in memory until `take_words`."""

    def __init__(self) -> None:
        self._stream = _import_stream()
        self._model = self._stream.model.Categorical(perfect=False)
        self._coder = self._stream.queue.RangeEncoder()

    def encode(self, ids_R: np.ndarray, logits_RV: np.ndarray) -> None:
        """Raises UserError for logits that are not finite."""
        if logits_RV.shape[1] > 1:  # the only letter of an alphabet is certain, and the coder needs two
            self._coder.encode(ids_R.astype(np.int32), self._model, probabilities(logits_RV))

    def take_words(self) -> np.ndarray:
        """The words of all symbols since the last call, `<u4` (W,). What follows is independent of them."""
        words_W = self._coder.get_compressed().astype("<u4")
        self._coder = self._stream.queue.RangeEncoder()
        return words_W


class Decoder:
    """Decodes the words of an Encoder, with the same logits in the same batches. name: of the file, for errors."""

    def __init__(self, words_W: np.ndarray, name: str) -> None:
        self._name = name
        stream = _import_stream()
        self._model = stream.model.Categorical(perfect=False)
        self._coder = stream.queue.RangeDecoder(words_W.astype(np.uint32))

    def decode(self, logits_RV: np.ndarray) -> np.ndarray:
        """The next symbols, int64 (R,). Raises UserError where the words cannot be of these logits."""
        if logits_RV.shape[1] == 1:
            return np.zeros(len(logits_RV), np.int64)
        try:
            return np.asarray(self._coder.decode(self._model, probabilities(logits_RV))).astype(np.int64)
        except AssertionError:  # constriction's error for words that no encoder has written with these probabilities
            raise UserError(
                f"the compressed text of {self._name} does not fit the predictions",
                rule="decompress it on the machine that wrote it",
            ) from None


def probabilities(logits_RV: np.ndarray) -> np.ndarray:
    """The softmax of each row, float64. The coder gives a symbol of probability 0 the smallest one that it has."""
    shifted_RV = logits_RV.astype(np.float64)
    shifted_RV -= shifted_RV.max(1, keepdims=True)
    weights_RV = np.exp(shifted_RV, out=shifted_RV)
    totals_R1 = weights_RV.sum(1, keepdims=True)
    if not np.isfinite(totals_R1).all():
        raise UserError(
            "the predictions of the network are not finite", rule="use other weights, or train with a lower rate"
        )
    weights_RV /= totals_R1
    return weights_RV


def check_coder_is_installed() -> None:
    """Raises UserError without the package constriction."""
    _import_stream()


def _import_stream() -> Any:
    try:
        return importlib.import_module("constriction").stream
    except ImportError:
        raise UserError(
            "compression needs constriction, which is not installed",
            rule='install it with pip install "charladder[compress]"',
        ) from None
