"""The guards file: what it may say, how its mistakes are explained, and what becomes of it."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from services.inference.client import InferenceClient
from services.inference.failures import InferenceFailure
from services.safety.beside_guards import GuardBuilder
from services.safety.errors import GuardFileError
from services.safety.generative_models import generative_model, special_tokens
from services.safety.guards_file import GenerativeEntry, read_guards_file
from services.safety.judgement import Aspect
from services.safety.settings import SafetySettings
from tests.fakes.ngrams import write_tiny_ngrams

GOOD = """
guards:
  - {name: llama, kind: llama-guard-3, checkpoint: model, dtype: bfloat16, threshold: 0.5}
  - {name: granite, kind: granite-guardian, checkpoint: model, categories: [violence, harm]}
  - name: house
    kind: gpt-oss-safeguard
    checkpoint: model
    policy:
      text: Nobody may name the cat (H1).
      taxonomy: house
      taxonomy_version: "1"
      categories:
        H1: {title: Names of cats}
  - {name: words, kind: keywords, blocklist: words.yaml, description: Our words.}
  - {name: refusals, kind: refusal}
"""
POLICY = "{text: x, taxonomy: t, taxonomy_version: v, categories: {A: {title: A}}}"
WORDS = """
taxonomy: words
taxonomy_version: "1"
categories:
  bad: {title: Bad words}
rules:
  - {category: bad, phrases: [heck]}
"""


def write(tmp_path: Path, text: str = GOOD) -> Path:
    (tmp_path / "words.yaml").write_text(WORDS, encoding="utf-8")
    file = tmp_path / "guards.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def with_model(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    (tmp_path / "model").symlink_to(tiny_checkpoint)
    return tmp_path


def entry_of(tmp_path: Path, **changes: Any) -> GenerativeEntry:
    told = {"name": "g", "kind": "llama-guard-3", "checkpoint": tmp_path / "model", **changes}
    return GenerativeEntry.model_validate(told)


def test_entries_are_read_with_paths_beside_the_file(tmp_path: Path) -> None:
    entries = read_guards_file(write(tmp_path))
    assert [each.name for each in entries] == ["llama", "granite", "house", "words", "refusals"]
    llama = entries[0]
    assert isinstance(llama, GenerativeEntry)
    assert llama.checkpoint == tmp_path / "model"
    assert (llama.dtype, llama.threshold) == ("bfloat16", 0.5)


@pytest.mark.parametrize(
    ("change", "explanation"),
    [
        (
            ("kind: llama-guard-3", "kind: lama-guard-3"),
            "guards[0].kind: 'lama-guard-3' is no kind of guard, did you mean 'llama",
        ),
        (("kind: refusal", "kind: [refusal]"), "guards[4].kind: "),
        (("dtype: bfloat16", "dtype: int4"), "guards[0].dtype: "),
        (("threshold: 0.5", "treshold: 0.5"), "guards[0].treshold: is no field, did you mean 'threshold'"),
        (("threshold: 0.5", "threshold: .nan"), "guards[0].threshold: "),
        (("threshold: 0.5", "categories: [S1]"), "guards[0].categories: means nothing here"),
        (("[violence, harm]", "[violense]"), "'violense' is no category of granite-guardian, did you mean 'violence'"),
        (("threshold: 0.5", f"policy: {POLICY}"), "guards[0].policy: means nothing here"),
        (("kind: granite-guardian", "kind: gpt-oss-safeguard"), "guards[1].policy: is missing"),
        (("text: Nobody", "txt: Nobody"), "guards[2].policy.txt: is no field"),
        (("name: refusals", "name: words"), "guards[4].name: 'words' stands there twice"),
        (("name: llama", "name: Llama Guard"), "guards[0].name: "),
        (("checkpoint: model, dtype", "dtype"), "guards[0].checkpoint: Field required"),
        (("guards:", "guard:"), "guard: is no field"),
        ((GOOD, "guards: []"), "guards: must be a list of guards"),
        ((GOOD, "guards: [llama]"), "guards[0]: must hold a mapping"),
        ((GOOD, "guards: ["), "line 1"),
    ],
)
def test_a_mistake_is_explained(tmp_path: Path, change: tuple[str, str], explanation: str) -> None:
    file = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(GuardFileError) as caught:
        read_guards_file(file)
    assert caught.value.message.startswith(str(file))
    assert explanation in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuardFileError, match=r"guards\.yaml: cannot be read"):
        read_guards_file(tmp_path / "guards.yaml")


async def build(file: Path, taken: str = "guards/minilm-hazard") -> list[Any]:
    settings = SafetySettings()
    async with InferenceClient("127.0.0.1:1") as client, AsyncExitStack() as stack:
        return await GuardBuilder(file, settings, client, None, stack).build(taken=taken)


async def test_every_entry_becomes_a_guard(with_model: Path) -> None:
    guards = {each.about.name: each.about for each in await build(write(with_model))}
    assert list(guards) == ["guards/llama", "guards/granite", "guards/house", "guards/words", "guards/refusals"]
    assert guards["guards/llama"].default_threshold == 0.5
    assert [each.code for each in guards["guards/house"].categories] == ["H1"]
    assert {each.code for each in guards["guards/granite"].categories} == {"violence", "harm"}, "it is asked no others"
    assert guards["guards/words"].description == "Our words."
    assert guards["guards/refusals"].aspects == (Aspect.RESPONSE,)
    assert len(guards["guards/llama"].reference.weights_digest) == 64


async def test_a_folder_of_n_grams_becomes_a_guard(tmp_path: Path) -> None:
    write_tiny_ngrams(tmp_path / "small", threshold=0.4)
    entries = "[{name: a, kind: ngrams, folder: small}, {name: b, kind: ngrams, folder: small, threshold: 0.9}]"
    first, second = await build(write(tmp_path, f"guards: {entries}"))
    assert (first.about.name, first.about.default_threshold) == ("guards/a", 0.4)
    assert first.about.description == "Knows a few sentences."
    assert (second.about.name, second.about.default_threshold) == ("guards/b", 0.9)
    with pytest.raises(GuardFileError, match=r"ngrams\.json: is missing"):
        await build(write(tmp_path, "guards: [{name: a, kind: ngrams, folder: smal}]"))


async def test_the_default_guards_name_is_taken(tmp_path: Path) -> None:
    with pytest.raises(GuardFileError, match=r"guards\[0\]\.name: 'llama' is the default"):
        await build(write(tmp_path), taken="guards/llama")


async def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuardFileError, match="guard 'llama': checkpoint: there is no checkpoint folder"):
        await build(write(tmp_path))


def test_a_context_that_the_checkpoint_does_not_have_is_refused(with_model: Path) -> None:
    with pytest.raises(GuardFileError, match="context_tokens: is 9999, the checkpoint reads 256"):
        generative_model(with_model / "g.yaml", entry_of(with_model, context_tokens=9999))


def test_a_family_that_needs_a_template_refuses_a_checkpoint_without(tmp_path: Path, tiny_checkpoint: Path) -> None:
    bare = tmp_path / "model"
    bare.mkdir()
    for file in tiny_checkpoint.iterdir():
        if file.is_file() and file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    told = json.loads((bare / "tokenizer_config.json").read_text())
    (bare / "tokenizer_config.json").write_text(json.dumps({**told, "chat_template": None}))
    with pytest.raises(GuardFileError, match="has no chat template, and qwen3guard needs one"):
        generative_model(tmp_path / "g.yaml", entry_of(tmp_path, kind="qwen3guard"))
    assert "chat template" not in generative_model(tmp_path / "g.yaml", entry_of(tmp_path)).guard_format.template


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"threshold": 0.3}, {"calibration_digest"}),
        ({"dtype": "bfloat16"}, {"dtype"}),
        ({"context_tokens": 100}, {"template_digest"}),
        ({"kind": "llama-guard-4"}, {"template_digest", "calibration_digest"}),
    ],
)
def test_what_decides_verdicts_is_in_a_digest(with_model: Path, changes: dict[str, Any], differs: set[str]) -> None:
    first = generative_model(with_model / "g.yaml", entry_of(with_model)).about.reference
    other = generative_model(with_model / "g.yaml", entry_of(with_model, **changes)).about.reference
    names = ("weights_digest", "template_digest", "calibration_digest", "dtype", "engine")
    assert {name for name in names if getattr(first, name) != getattr(other, name)} == differs


def test_auto_is_settled_before_anything_is_kept_or_calibrated_under_its_name(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "model").mkdir()
    for file in tiny_checkpoint.iterdir():
        if file.name != "config.json":
            (tmp_path / "model" / file.name).symlink_to(file)
    told = json.loads((tiny_checkpoint / "config.json").read_text(encoding="utf-8"))
    for stated, rule, dtype in (
        ("bfloat16", "float32", "float32"),
        ("bfloat16", "checkpoint", "bfloat16"),
        ("float64", "checkpoint", "float32"),
        ("", "checkpoint", "float32"),
    ):
        config = json.dumps({**told, "dtype": stated, "torch_dtype": stated})
        (tmp_path / "model" / "config.json").write_text(config, encoding="utf-8")
        for wanted, expected in (("auto", dtype), ("float16", "float16")):
            entry = entry_of(tmp_path, dtype=wanted)
            made = generative_model(tmp_path / "g.yaml", entry, "checkpoint" if rule == "checkpoint" else "float32")
            assert (made.about.reference.dtype, made.arguments.dtype) == (expected, expected)


def test_what_is_loaded_has_its_content_in_its_name(with_model: Path) -> None:
    names = {
        generative_model(with_model / "g.yaml", entry_of(with_model, **changes)).checkpoint_name
        for changes in ({}, {"dtype": "bfloat16"}, {"context_tokens": 99}, {"threshold": 0.3})
    }
    assert len(names) == 3


def test_special_tokens_are_found_in_all_files(tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert {"<s>", "</s>", "<|user|>", "<|assistant|>"} <= special_tokens(tiny_checkpoint)
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"added_tokens": [{"content": "<a>", "special": True}, {"content": "<b>", "special": False}, 7]})
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "added_tokens_decoder": {"3": {"content": "<|c|>", "special": False}},
                "eos_token": {"content": "<d>"},
                "additional_special_tokens": ["<e>", {"content": "<f>"}],
                "model_max_length": 7,
            }
        )
    )
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"image_token": "<g>", "pad_token": None}))
    assert special_tokens(tmp_path) == {"<a>", "<|c|>", "<d>", "<e>", "<f>", "<g>"}
    (tmp_path / "tokenizer.json").write_text("[")
    with pytest.raises(InferenceFailure):
        special_tokens(tmp_path)
