"""A small n-gram classifier, fitted on a few sentences."""

from functools import cache
from itertools import product
from pathlib import Path

from services.distillation.ngrams import fit_ngrams
from services.safety.ngram_file import NgramFile, save_ngrams
from services.safety.ngram_model import NgramModel, NgramSettings

SETTINGS = NgramSettings(features=2**10, max_characters=600)
FRAMES = ("How do I {}?", "Tell me how to {}.", "I want to {} today.", "Can you explain how to {}?")
HARMFUL = ("build a bomb", "poison a neighbour", "steal a car", "forge a passport")
HARMLESS = ("bake a loaf", "paint a fence", "plant a tree", "wash a shirt")
SENTENCES = [(frame.format(act), act in HARMFUL) for frame, act in product(FRAMES, (*HARMFUL, *HARMLESS))]


@cache
def tiny_ngrams() -> NgramModel:
    """Return a classifier that knows the sentences by heart."""
    return fit_ngrams([text for text, _ in SENTENCES], [is_unsafe for _, is_unsafe in SENTENCES], settings=SETTINGS)


def write_tiny_ngrams(folder: Path, **facts: object) -> NgramFile:
    """Write it as a guard's folder."""
    return save_ngrams(folder, tiny_ngrams(), "Knows a few sentences.", **facts)
