"""Notes of `train` at its end: it ended early, better weights exist, or the network is worse than a unigram model."""

from typing import Any

from charladder.cli.training_outcome import TrainingOutcome
from charladder.evaluation.unigram_baseline import better_unigram
from charladder.run import Run, split_corpus
from charladder.text import Corpus
from charladder.training.best_weights import BEST_NETWORK_FILE, BestWeights, read_best


def read_best_weights(run: Run) -> BestWeights | None:
    """Step and bits of the best weights; None if the last weights are the best."""
    return read_best(run.path / BEST_NETWORK_FILE)


def closing_notes(run: Run, corpus: Corpus, outcome: TrainingOutcome, score: dict[str, Any] | None) -> list[str]:
    """Sentences for print_note. `score`: the entries of score_after_training."""
    validated = outcome.last_validation
    if validated is None:
        return []
    notes, best = [], read_best_weights(run)
    if outcome.ended_early:
        notes.append(
            f"training ended before its budget was spent, because {run.recipe.training.patience} validations in a row "
            "were no better than the best one (--patience)"
        )
    if best is not None:
        notes.append(
            f"the last weights have {validated.bits_per_character:.3f} bits per character on the text of the "
            f"validations, the best ones (step {best.step:,}) {best.bits:.3f}; --weights best uses those"
        )
    parts = split_corpus(run.recipe, corpus)
    bits = validated.bits_per_character if score is None else score["bits_per_character"]
    characters = validated.characters if score is None else score["characters"]
    part = parts.valid[0], parts.valid[0] + characters
    unigram = better_unigram(bits, corpus.ids_N, parts.train, part, corpus.alphabet.size)
    if unigram is not None:
        notes.append(
            f"{bits:.3f} bits per character are more than {unigram:.3f}, which the frequencies of single characters in "
            "the training text give (an add-one unigram model)"
        )
    return notes
