import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from services.generation import checkpoints
from services.generation.checkpoints import (
    ContentDigests,
    compute_digest,
    locate_checkpoint,
    read_checkpoint,
    read_fingerprint,
)
from services.generation.errors import CheckpointError, CheckpointPathError
from services.runtime.errors import FleetError
from tests.fakes.inference_backend import write_checkpoint


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def test_a_folder_below_a_root_is_found_through_links(root: Path) -> None:
    real = write_checkpoint(root / "run" / "step-10")
    (root / "latest").symlink_to(real)
    assert locate_checkpoint(str(root / "latest"), [root]) == real
    assert locate_checkpoint(f"{root}/run/../run/step-10", [root]) == real


@pytest.mark.parametrize("exists", [True, False])
def test_paths_outside_the_roots_are_refused_whether_or_not_they_exist(root: Path, exists: bool) -> None:
    outside = root.parent / "elsewhere"
    if exists:
        write_checkpoint(outside)
    for path in (str(outside), f"{root}/../elsewhere"):
        with pytest.raises(CheckpointPathError) as caught:
            locate_checkpoint(path, [root])
        assert caught.value.reason == "CHECKPOINT_OUTSIDE_ROOTS"
        assert [violation.field for violation in caught.value.field_violations] == ["checkpoint_path"]


def test_a_root_is_no_prefix_of_a_name(root: Path) -> None:
    write_checkpoint(root.parent / "checkpoints-secret")
    with pytest.raises(CheckpointPathError, match="root"):
        locate_checkpoint(str(root.parent / "checkpoints-secret"), [root])


def test_links_that_lead_out_of_the_roots_are_refused(root: Path) -> None:
    outside = write_checkpoint(root.parent / "elsewhere")
    (root / "folder-link").symlink_to(outside)
    inside = write_checkpoint(root / "file-link")
    (inside / "model.safetensors").unlink()
    (inside / "model.safetensors").symlink_to(outside / "model.safetensors")
    for name in ("folder-link", "file-link"):
        with pytest.raises(CheckpointPathError) as caught:
            read_checkpoint(str(root / name), [root])
        assert caught.value.reason == "CHECKPOINT_OUTSIDE_ROOTS"


def test_without_roots_nothing_can_be_registered(root: Path) -> None:
    with pytest.raises(CheckpointPathError, match="EVALFLEET_CHECKPOINT_ROOTS"):
        locate_checkpoint(str(write_checkpoint(root / "a")), [])


@pytest.mark.parametrize("path", ["relative/step-1", "nul\0byte", "/" + "x" * 5000])
def test_unusable_paths_are_typed_errors(root: Path, path: str) -> None:
    with pytest.raises(CheckpointPathError):
        locate_checkpoint(path, [root, Path("/")])


def test_a_loop_of_links_is_a_typed_error(root: Path) -> None:
    (root / "a").symlink_to(root / "b")
    (root / "b").symlink_to(root / "a")
    with pytest.raises(CheckpointPathError):
        locate_checkpoint(str(root / "a"), [root])


def test_a_missing_folder_suggests_its_neighbour(root: Path) -> None:
    write_checkpoint(root / "step-1200")
    with pytest.raises(CheckpointPathError, match=r"did you mean .*step-1200") as caught:
        locate_checkpoint(str(root / "step-120"), [root])
    assert caught.value.reason == "CHECKPOINT_NOT_FOUND"


def test_a_file_is_no_checkpoint(root: Path) -> None:
    folder = write_checkpoint(root / "a")
    with pytest.raises(CheckpointPathError, match=str(folder)):
        locate_checkpoint(str(folder / "model.safetensors"), [root])


def test_a_good_folder_says_what_it_is(root: Path) -> None:
    checkpoint = read_checkpoint(str(write_checkpoint(root / "a")), [root])
    assert checkpoint.facts.architecture == "LlamaForCausalLM"
    assert checkpoint.facts.context_tokens == 64
    assert [stamp.name for stamp in checkpoint.fingerprint] == ["config.json", "model.safetensors", "tokenizer.json"]


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _config(**config: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "CHECKPOINT_CORRUPT"),
        (_pickle_only, "SAFETENSORS_MISSING"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "TOKENIZER_MISSING"),
        (lambda folder: (folder / "config.json").unlink(), "CHECKPOINT_INVALID"),
        (lambda folder: (folder / "config.json").write_text("{"), "CHECKPOINT_INVALID"),
        (lambda folder: (folder / "config.json").write_text("[]"), "CHECKPOINT_INVALID"),
        (_config(max_position_embeddings=64), "CHECKPOINT_INVALID"),
        (_config(architectures=17), "CHECKPOINT_INVALID"),
        (_config(architectures=["L"], max_position_embeddings="long"), "CHECKPOINT_INVALID"),
        (_config(architectures=["L"], auto_map={"AutoModel": "evil.Model"}), "REMOTE_CODE_REFUSED"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "CHECKPOINT_CORRUPT"),
    ],
)
def test_damaged_folders_are_refused_typed(root: Path, damage: Callable[[Path], object], reason: str) -> None:
    folder = write_checkpoint(root / "a")
    damage(folder)
    with pytest.raises(FleetError) as caught:
        read_checkpoint(str(folder), [root])
    assert caught.value.reason == reason
    assert str(folder) in caught.value.message


async def test_the_digest_covers_content_and_dtype_and_nothing_else(root: Path) -> None:
    folder = write_checkpoint(root / "a")
    digest = (await compute_digest(folder, "float32")).digest
    copy = write_checkpoint(root / "copy")
    (copy / "trainer_state.json").write_text("{}")
    assert (await compute_digest(copy, "float32"))[0] == digest
    seen = {digest, (await compute_digest(folder, "bfloat16"))[0]}
    for name in ("chat_template.jinja", "generation_config.json", "config.json", "tokenizer.json", "model.safetensors"):
        file = folder / name
        file.write_bytes((file.read_bytes() if file.exists() else b"") + b" ")
        changed, fingerprint = (await compute_digest(folder, "float32"))[:2]
        assert changed not in seen
        assert fingerprint == read_fingerprint(folder)
        seen.add(changed)


async def test_the_base_is_told_apart_from_its_adapter_and_the_lineage_from_both(root: Path) -> None:
    folder, other = write_checkpoint(root / "a", content="one"), write_checkpoint(root / "b", content="two")
    adapter = root / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    bare, tuned = await compute_digest(folder, "float32"), await compute_digest(folder, "float32", adapter)
    assert bare.digest == bare.base_digest == tuned.base_digest != tuned.digest
    later = await compute_digest(other, "float32")
    assert later.base_digest != bare.base_digest
    assert later.lineage_digest == bare.lineage_digest == tuned.lineage_digest
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert (await compute_digest(other, "float32")).lineage_digest != bare.lineage_digest


def test_the_fingerprint_notices_a_rewrite_that_keeps_size_and_time(root: Path) -> None:
    folder = write_checkpoint(root / "a", content="one")
    before = read_fingerprint(folder)
    file = folder / "model.safetensors"
    stat = file.stat()
    file.write_bytes(file.read_bytes().replace(b"one", b"two"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read_fingerprint(folder) != before


async def test_a_folder_that_never_rests_cannot_be_hashed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(root / "a")

    def hash_while_written(*folders: Path, dtype: str) -> tuple[str, ...]:
        (folder / "log").open("a").write("x")
        return ("digest",)

    monkeypatch.setattr(checkpoints, "content_digests", hash_while_written)
    with pytest.raises(CheckpointError) as caught:
        await compute_digest(folder, "float32")
    assert caught.value.reason == "CHECKPOINT_CHANGED"


async def test_a_vanished_file_is_a_typed_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(*folders: Path, dtype: str) -> tuple[str, ...]:
        raise FileNotFoundError

    monkeypatch.setattr(checkpoints, "content_digests", vanish)
    with pytest.raises(CheckpointError):
        await compute_digest(write_checkpoint(root / "a"), "float32")


async def test_hashing_is_shared_and_goes_on_when_its_callers_leave(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(root / "a")
    loop = asyncio.get_running_loop()
    started, release, calls = asyncio.Event(), asyncio.Event(), []

    def slow(*folders: Path, dtype: str) -> tuple[str, ...]:
        calls.append(dtype)
        loop.call_soon_threadsafe(started.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return ("digest",)

    monkeypatch.setattr(checkpoints, "content_digests", slow)
    digests = ContentDigests()
    leaving = asyncio.create_task(digests.digest(folder, "float32"))
    await started.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    staying = asyncio.create_task(digests.digest(folder, "float32"))
    release.set()
    assert (await staying)[0] == "digest"
    assert (await digests.digest(folder, "float32"))[0] == "digest"
    assert calls == ["float32"]


async def test_a_failed_hash_is_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(root / "a")
    outcomes: list[str | OSError] = [OSError("disk"), "digest"]

    def flaky(*folders: Path, dtype: str) -> tuple[str, ...]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return (outcome,)

    monkeypatch.setattr(checkpoints, "content_digests", flaky)
    digests = ContentDigests()
    with pytest.raises(CheckpointError):
        await digests.digest(folder, "float32")
    assert (await digests.digest(folder, "float32"))[0] == "digest"
