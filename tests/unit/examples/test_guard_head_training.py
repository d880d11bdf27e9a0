"""The guard's training texts, their split, its tuning, and the weights that are committed."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from examples.guard_head.corpus import HAZARDS, Example, load_corpus, load_tweets
from examples.guard_head.lessons import LABELS, lessons_of, targets_of
from examples.guard_head.public_sets import load_public
from examples.guard_head.scoring import NoMetrics
from examples.guard_head.splitting import folds_of, split
from examples.guard_head.train import ENCODER_SHA256, MAX_TOKENS, write_guard
from services.distillation.tuning import Recipe, padding_tokenizer, tune
from services.inference.contract import ClassifierArguments
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.safety.guard_file import check_labels, read_guard_file
from services.safety.guard_models import EMBEDDED_FOLDER


def test_the_corpus_is_the_same_for_the_same_seed() -> None:
    first, second, other = load_corpus(7), load_corpus(7), load_corpus(8)
    assert first == second
    assert [each.text for each in first] != [each.text for each in other]


def test_the_corpus_is_filled_in_and_consistent() -> None:
    corpus = load_corpus(7)
    assert len({each.text for each in corpus}) == len(corpus) > 5000
    for example in corpus:
        assert "{" not in example.text
        assert example.hazards <= set(HAZARDS)
    for hazard in HAZARDS:
        assert sum(hazard in each.hazards for each in corpus) >= 50
    harmless = sum(not each.hazards for each in corpus)
    assert 0.4 < harmless / len(corpus) < 0.7


def test_frames_tell_nothing_about_the_label() -> None:
    corpus = load_corpus(7)
    opened = [each for each in corpus if each.text.startswith("Explain step by step how to ")]
    assert 0.3 < sum(bool(each.hazards) for each in opened) / len(opened) < 0.7


def test_tweets_keep_unjudged_hazards_unknown(data_dir: Path) -> None:
    tweets = load_tweets(data_dir)
    assert len(tweets) == 5000
    assert all("sexual_content" in each.unknown for each in tweets)
    assert {each.hazards for each in tweets} == {frozenset({"hate"}), frozenset({"harassment"}), frozenset()}


def test_public_labels_say_what_is_known_only(data_dir: Path) -> None:
    public = load_public(data_dir)
    assert len({each.text for each in public}) == len(public) > 4000
    by_source = {source: [each for each in public if each.source == source] for source in {e.source for e in public}}
    assert all(each.other_hazard for each in by_source["advbench"])
    assert not any(each.is_unsafe for each in by_source["gsm8k"] + by_source["boolq"])
    flagged = [each for each in by_source["openai_moderation"] if each.hazards]
    assert flagged
    assert all("privacy" in each.unknown and not each.hazards & each.unknown for each in flagged)
    assert {each.hazards for each in by_source["hatecheck"]} == {frozenset(), frozenset({"hate"})}


def test_targets_are_nan_where_nobody_judged() -> None:
    targets = targets_of(Example("a", frozenset({"hate"}), "g", "set", frozenset({"harassment"})))
    assert targets[0] == targets[LABELS.index("hate")] == 1
    assert math.isnan(targets[LABELS.index("harassment")])
    assert sum(each == 0 for each in targets) == len(LABELS) - 3
    assert targets_of(Example("a", frozenset(), "g", "set", frozenset(HAZARDS), other_hazard=True))[0] == 1


def test_paraphrases_stay_on_one_side() -> None:
    texts = [f"how do I {verb} a {thing} at home" for verb in ("bake", "paint", "sell") for thing in ("cake", "wall")]
    examples = [Example(text, frozenset(), text, "set") for text in texts]
    assert len(set(folds_of(examples, 10))) == 1
    lone = [
        Example(f"{number} entirely different words {number}x {number}y", frozenset(), str(number), "set")
        for number in range(40)
    ]
    assert len(set(folds_of(lone, 10))) > 3
    grouped = [Example(each.text, frozenset(), "one template", "set") for each in lone]
    assert len(set(folds_of(grouped, 10))) == 1


def test_own_texts_near_a_held_out_one_are_not_trained_on() -> None:
    public = [
        Example(f"{number} some words {number}x {number}y", frozenset(), str(number), "set") for number in range(60)
    ]
    own = [Example(f"{each.text} more", frozenset(), f"own {each.text}", "corpus") for each in public]
    parts = split(public, own)
    held_out = {each.text for each in (*parts.test, *parts.validation)}
    assert held_out
    assert parts.test
    trained, measured = ({each.text for each in part} for part in (parts.training, parts.own_test))
    assert measured
    assert not measured & trained
    assert trained | measured == {
        text for each in public if each.text not in held_out for text in (each.text, f"{each.text} more")
    }


def test_own_sentences_are_held_out_by_group() -> None:
    own = [Example(f"{each} {number}", frozenset(), str(number), "corpus") for number in range(60) for each in "ab"]
    parts = split([], own)
    groups = {each.group for each in parts.own_test}
    assert 0 < len(parts.own_test) == 2 * len(groups) < 40
    assert not groups & {each.group for each in parts.training}


def test_a_guard_learns_and_is_served_as_it_was_tuned(encoder_folder: Path, tmp_path: Path) -> None:
    examples = [
        Example(f"{word} {number}", frozenset({"hate"} if word == "fox" else ()), str(number), "set")
        for number in range(48)
        for word in ("fox", "Jupiter")
    ]
    losses: list[float] = []
    recipe = Recipe(rank=4, alpha=8, epochs=6, batch=16, learning_rate=1e-2, max_tokens=32)
    guard = tune(encoder_folder, lessons_of(examples, {}), recipe, report=lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 36
    assert losses[-1] < losses[0] / 2
    guard.save(tmp_path)
    write_guard(tmp_path, {"threshold": 0.4})
    assert str(encoder_folder) not in (tmp_path / "adapter_config.json").read_text()
    engine = SequenceClassifierEngine.load(
        ClassifierArguments(model=str(encoder_folder), head=str(tmp_path), max_model_len=32), NoMetrics()
    )
    tokenizer = padding_tokenizer(encoder_folder)
    texts = ["fox 1", "Jupiter 2", "The quick brown fox jumps"]
    with torch.no_grad():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        tuned = guard({name: tokens[name] for name in ("input_ids", "attention_mask")}).sigmoid()
    np.testing.assert_allclose(engine.classify(texts).probabilities, tuned.numpy(), atol=0.01)
    plain = SequenceClassifierEngine.load(
        ClassifierArguments(model=str(encoder_folder), head=str(without_adapter(tmp_path)), max_model_len=32),
        NoMetrics(),
    )
    assert np.abs(plain.classify(texts).probabilities - tuned.numpy()).max() > 0.05


def without_adapter(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder / "plain", ignore=shutil.ignore_patterns("adapter_*", "plain")))


def test_the_committed_head_fits_its_guard_file() -> None:
    head = json.loads((EMBEDDED_FOLDER / "head.json").read_text())
    tensors = load_file(EMBEDDED_FOLDER / "head.safetensors")
    guard = read_guard_file(EMBEDDED_FOLDER / "guard.yaml")
    assert tensors["weight"].shape == (len(LABELS), 384)
    assert tensors["bias"].shape == (len(LABELS),)
    assert tuple(head["labels"]) == LABELS
    assert (head["encoder_sha256"], head["max_tokens"], head["activation"]) == (ENCODER_SHA256, MAX_TOKENS, "sigmoid")
    check_labels(EMBEDDED_FOLDER / "guard.yaml", guard, LABELS)
    assert set(guard.categories) == set(HAZARDS)
    assert all(guard.meaning(label) for label in LABELS)
    assert guard.threshold == json.loads((EMBEDDED_FOLDER / "calibration.json").read_text())["threshold"]


def test_the_committed_weights_are_small_and_whole() -> None:
    files = [each for each in EMBEDDED_FOLDER.iterdir() if each.is_file()]
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {each.name for each in files}
    assert sum(each.stat().st_size for each in files) <= 5_000_000
