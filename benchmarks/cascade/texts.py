"""The texts of the benchmark, none of which a guard was trained on: what attackers send, and what most callers do."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.cascade.ordinary import answers, chats, prompts, questions
from examples.guard_head.public_sets import benign_requests, xstest_responses
from examples.guard_head.splitting import Split

TRAFFIC_SHARES: Final = {"hazardous": 0.05, "lookalike": 0.05, "chat": 0.05, "prompt": 0.425, "answer": 0.425}
"""What the traffic is made of: hazardous by people's labels; harmless rows of the same red-team and moderation sets;
both sides of dialogues in which people often provoke an assistant; prompts, and answers, of capability sets."""


def adversarial_texts(data: Path, split: Split) -> list[str]:
    """Return distinct held-out texts of the labelled sets, and questions beside them: half of them try the guard.

    Args:
        data: folder of the public sets.
        split: of the embedded guard's texts.
    """
    labelled = (each.text for each in (*split.test, *split.validation, *xstest_responses(data)))
    return _untrained([*labelled, *questions(data)], split)


def traffic_texts(data: Path, split: Split, seed: int, shares: Mapping[str, float] = TRAFFIC_SHARES) -> list[str]:
    """Return distinct texts mixed like the traffic of evaluations and training runs, in a random order.

    Args:
        data: folder of the public sets.
        split: of the embedded guard's texts.
        seed: of the draw.
        shares: of each kind of text; they add up to 1.
    """
    capability = {each.text for each in benign_requests(data)}
    labelled = [
        each for each in (*split.test, *split.validation, *xstest_responses(data)) if each.text not in capability
    ]
    pools = {
        "hazardous": [each.text for each in labelled if each.is_unsafe],
        "lookalike": [each.text for each in labelled if not each.is_unsafe],
        "chat": chats(data),
        "prompt": list(prompts(data)),
        "answer": list(answers(data)),
    }
    return mixed({kind: _untrained(texts, split) for kind, texts in pools.items()}, shares, seed)


def mixed(pools: Mapping[str, Sequence[str]], shares: Mapping[str, float], seed: int) -> list[str]:
    """Return as many texts as the scarcest kind allows, in a random order; one that two kinds have is the first one's.

    Args:
        pools: texts by kind.
        shares: of each kind; they add up to 1.
        seed: of the draw.
    """
    taken: set[str] = set()
    distinct: dict[str, list[str]] = {}
    for kind, texts in pools.items():
        distinct[kind] = [text for text in texts if text not in taken]
        taken.update(distinct[kind])
    count = min(int(len(distinct[kind]) / share) for kind, share in shares.items())
    chance = random.Random(seed)
    mixed = [text for kind, share in shares.items() for text in chance.sample(distinct[kind], round(count * share))]
    chance.shuffle(mixed)
    return mixed


def _untrained(texts: Sequence[str], split: Split) -> list[str]:
    trained = {each.text for each in split.training}
    return [text for text in dict.fromkeys(texts) if text.strip() and text not in trained]
