import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.inference.checkpoints import content_digest, inspect_checkpoint
from services.inference.failures import InferenceFailure


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_checkpoint_says_what_it_is(tiny_checkpoint: Path) -> None:
    facts = inspect_checkpoint(tiny_checkpoint)
    assert facts.architecture == "LlamaForCausalLM"
    assert (facts.dtype, facts.context_tokens, facts.has_chat_template) == ("float32", 256, True)
    assert facts.weight_bytes == (tiny_checkpoint / "model.safetensors").stat().st_size


def test_labels_come_in_the_order_of_their_numbers(copy: Path) -> None:
    edit(copy / "config.json", id2label={str(n): f"l{n}" for n in [10, 2, 1, 0, 3, 4, 5, 6, 7, 8, 9]})
    assert inspect_checkpoint(copy).labels == tuple(f"l{n}" for n in range(11))


def test_a_nested_text_configuration_gives_the_context(copy: Path) -> None:
    edit(copy / "config.json", max_position_embeddings=9, text_config={"max_position_embeddings": 77})
    assert inspect_checkpoint(copy).context_tokens == 77


def pickled_instead(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_weights(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def with_code(name: str) -> Callable[[Path], object]:
    return lambda folder: edit(folder / name, auto_map={"AutoModel": "x.Y"})


def lose_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason", "says"),
    [
        (shutil.rmtree, "CHECKPOINT_NOT_FOUND", "no checkpoint folder"),
        (pickled_instead, "SAFETENSORS_MISSING", "pytorch_model.bin would run code"),
        (lambda folder: (folder / "model.safetensors").unlink(), "SAFETENSORS_MISSING", "save_pretrained"),
        (cut_short, "CHECKPOINT_CORRUPT", "still being written"),
        (with_weights(b"junk"), "CHECKPOINT_CORRUPT", "cut short"),
        (with_weights(b"\2\0\0\0\0\0\0\0[]"), "CHECKPOINT_CORRUPT", "header"),
        (lose_a_shard, "CHECKPOINT_INCOMPLETE", "model-00002.safetensors"),
        (with_code("config.json"), "REMOTE_CODE_REFUSED", "never run"),
        (with_code("tokenizer_config.json"), "REMOTE_CODE_REFUSED", "tokenizer_config.json"),
        (lambda folder: (folder / "config.json").unlink(), "CHECKPOINT_INVALID", "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "CHECKPOINT_INVALID", "JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "CHECKPOINT_INVALID", "JSON object"),
        (lose_the_tokenizer, "TOKENIZER_MISSING", "tokenizer.save_pretrained"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(copy: Path, spoil: Callable[[Path], object], reason: str, says: str) -> None:
    spoil(copy)
    with pytest.raises(InferenceFailure, match=says) as caught:
        inspect_checkpoint(copy)
    assert caught.value.reason == reason
    assert caught.value.metadata["path"] == str(copy)


def test_the_digest_covers_what_decides_answers_and_nothing_else(tiny_checkpoint: Path, copy: Path) -> None:
    digest = content_digest(tiny_checkpoint, dtype="float32")
    assert digest == content_digest(copy, dtype="float32")
    (copy / "trainer_state.json").write_text("{}")
    (copy / "README.md").write_text("notes")
    assert digest == content_digest(copy, dtype="float32")
    assert digest != content_digest(copy, dtype="bfloat16")
    for name in ("config.json", "chat_template.jinja", "tokenizer.json", "model.safetensors"):
        file = copy / name
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        assert content_digest(copy, dtype="float32") != digest, name
        file.write_bytes(before)
    assert content_digest(copy, dtype="float32") == digest
