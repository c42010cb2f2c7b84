"""What compresses: the network of a run, or one that learns while it codes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from charladder.compression.container import Header
from charladder.compression.online import ONLINE_CHARACTERS_OF_A_SEGMENT, ONLINE_CONTEXT, OnlinePredictor
from charladder.compression.predictor import NetworkPredictor, Predictor
from charladder.compression.segments import CHARACTERS_OF_A_SEGMENT, Segments
from charladder.errors import UserError
from charladder.inference.factory import open_runner
from charladder.run import Run
from charladder.text import Alphabet
from charladder.training.tensor_files import file_digest

DIGEST_DIGITS = 12  # of a SHA-256 in a header, which is short


@dataclass(frozen=True)
class Codec:
    """mode, network, context: as in Header. characters_of_a_segment: texts are cut into about so many.

    open_predictor: returns a new predictor, and the name of what runs its network, for the numeric path.
    """

    mode: str
    alphabet: Alphabet
    context: int
    network: str
    characters_of_a_segment: int
    open_predictor: Callable[[Segments], tuple[Predictor, str]]

    @property
    def alphabet_name(self) -> str:
        """`bytes`, or the first digits of the SHA-256 of the letters."""
        letters = self.alphabet.letters
        return sha256(letters.encode()).hexdigest()[:DIGEST_DIGITS] if letters else "bytes"


def network_codec(run: Run) -> Codec:
    """Compresses with the network of a run, on the CPU. Raises UserError if its weights cannot be loaded."""
    network, context = run.load_network(), run.recipe.model.context

    def open_predictor(segments: Segments) -> tuple[Predictor, str]:
        count = max(1, segments.count)
        runner = open_runner(network, count)
        return NetworkPredictor(runner, count), type(runner).__name__

    digest = file_digest(run.network_path)[:DIGEST_DIGITS]
    return Codec("network", run.alphabet, context, digest, CHARACTERS_OF_A_SEGMENT, open_predictor)


def online_codec() -> Codec:
    """Compresses bytes with a network that learns while it codes."""
    alphabet = Alphabet()

    def open_predictor(segments: Segments) -> tuple[Predictor, str]:
        predictor = OnlinePredictor(segments, alphabet.size)
        return predictor, type(predictor.runner).__name__

    return Codec("online", alphabet, ONLINE_CONTEXT, "", ONLINE_CHARACTERS_OF_A_SEGMENT, open_predictor)


def find_codec(header: Header, run: Run | None, name: str) -> Codec:
    """The codec that wrote a file. run: the run of its network; its last or its best weights are used, whichever fit.

    Raises UserError if the file needs a run, or another one.
    """
    if header.mode == "online":
        return online_codec()
    if run is None:
        raise UserError(
            f"{name} was compressed with the network {header.network}", rule="give its run directory before the file"
        )
    for weights in ("last", "best"):
        candidate = replace(run, weights=weights)
        if candidate.network_path.is_file() and file_digest(candidate.network_path).startswith(header.network):
            codec = network_codec(candidate)
            if (codec.alphabet_name, codec.context) == (header.alphabet, header.context):
                return codec
    raise UserError(
        f"{name} was compressed with another network than {run.path} has: the SHA-256 of its file begins with "
        f"{header.network}", rule="give the run that wrote it, as it was then: training it further replaces its network"
    )  # fmt: skip
