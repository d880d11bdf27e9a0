"""From the rounds of all sides to flat figures."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.generation.ours import Answer
from benchmarks.generation.prompts import PromptSet

Rounds = Mapping[str, Mapping[str, Sequence[Answer]]]
"""Answers by side and by the name of the prompt set."""

PEERS = ("hf", "vllm")
OURS = ("ours_transformers", "ours_vllm")


def all_figures(sets: Sequence[PromptSet], rounds: Rounds) -> dict[str, float]:
    """Build the figures: rates, ratios, agreement."""
    figures: dict[str, float] = {}
    for asked in sets:
        present = {side: rounds[side][asked.name] for side in (*PEERS, *OURS) if asked.name in rounds.get(side, {})}
        for side, answers in present.items():
            seconds = statistics.median(each.seconds for each in answers)
            figures[f"{asked.name}_questions_per_second_{side}"] = len(asked) / seconds
            figures[f"{asked.name}_peak_memory_mib_{side}"] = max(each.peak_rss_mib for each in answers)
            if asked.questions:
                figures[f"{asked.name}_accuracy_{side}"] = accuracy(asked, answers[0])
        figures |= _ratios(asked, present)
    return figures | _agreement(sets, rounds)


def _ratios(asked: PromptSet, present: Mapping[str, Sequence[Answer]]) -> dict[str, float]:
    """Ours over the peer's rate, the median of the rounds; our better engine, the HF model and the better peer."""

    def ratio(peer: str, ours: str) -> float:
        pairs = zip(present[peer], present[ours], strict=True)
        return statistics.median(theirs.seconds / our.seconds for theirs, our in pairs)

    ours = [side for side in OURS if side in present]
    peers = [side for side in PEERS if side in present]
    figures = {f"{asked.name}_ratio_{our}_over_{peer}": ratio(peer, our) for peer in peers for our in ours}
    if ours and "hf" in peers:
        figures[f"{asked.name}_ratio"] = max(ratio("hf", our) for our in ours)
        figures[f"{asked.name}_ratio_best_peer"] = max(min(ratio(peer, our) for peer in peers) for our in ours)
    return figures


def _agreement(sets: Sequence[PromptSet], rounds: Rounds) -> dict[str, float]:
    """Largest differences of log-likelihood and of accuracy between the HF model and each of our engines."""
    figures: dict[str, float] = {}
    worst_likelihood, worst_accuracy = 0.0, 0.0
    for ours in OURS:
        if ours not in rounds or "hf" not in rounds:
            continue
        likelihoods, accuracies, same_texts = [0.0], [0.0], []
        for asked in sets:
            theirs, our = rounds["hf"][asked.name][0], rounds[ours][asked.name][0]
            likelihoods += [abs(a[0] - b[0]) for a, b in zip(theirs.scores, our.scores, strict=True)]
            if asked.questions:
                accuracies.append(abs(accuracy(asked, theirs) - accuracy(asked, our)))
            same_texts += [a == b for a, b in zip(theirs.texts, our.texts, strict=True)]
        figures[f"largest_loglikelihood_difference_{ours}"] = max(likelihoods)
        figures[f"accuracy_difference_{ours}"] = max(accuracies)
        figures[f"equal_greedy_answers_share_{ours}"] = statistics.mean(same_texts) if same_texts else 1.0
        worst_likelihood = max(worst_likelihood, *likelihoods)
        worst_accuracy = max(worst_accuracy, *accuracies)
    return figures | {
        "largest_loglikelihood_difference": worst_likelihood,
        "accuracy_difference": worst_accuracy,
    }


def accuracy(asked: PromptSet, answer: Answer) -> float:
    """Share of questions whose likeliest choice is right; the first of equally likely ones counts."""
    right, position = 0, 0
    for question in asked.questions:
        values = [value for value, _ in answer.scores[position : position + len(question.continuations)]]
        position += len(values)
        right += values.index(max(values)) in question.gold
    return right / len(asked.questions)
