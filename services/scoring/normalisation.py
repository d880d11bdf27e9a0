"""Normalisations of texts before they are compared, named after who defined them."""

import re
import string

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def squad_normalised(text: str, *, keep_articles: bool = False) -> str:
    """Return ``text`` as SQuAD's and QuAC's evaluation scripts compare it, and HELM's quasi-exact match after them.

    In this order: lower case; ASCII punctuation dropped; the words a, an, the replaced by a space; runs of white space
    replaced by one space, none at the ends.
    """
    plain = text.lower().translate(_WITHOUT_PUNCTUATION)
    if not keep_articles:
        plain = _ARTICLES.sub(" ", plain)
    return " ".join(plain.split())
