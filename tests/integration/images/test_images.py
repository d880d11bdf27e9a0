"""Each image holds what its service needs, no torch, no shell, and is small."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.docker.image_contents import IMAGES, Image, release
from services.evaluation.catalog import PACKAGE_FOLDER
from tests.integration.images.containers import REPOSITORY, USER, inspect, run_in

pytestmark = pytest.mark.integration

LARGEST_BYTES = 250_000_000
LEAN = [each for each in IMAGES if each.lean]
# What a module imports when it is asked for something that is not in its image: a hub's files, guards of another kind.
OPTIONAL = {"huggingface_hub", "sklearn", "safetensors"}
OF_EXTRAS = {"ledger": {"alembic", "asyncpg", "sqlalchemy"}, "redis": {"redis"}}
"""What the runtime imports for those services alone that have an extra."""
LOOK = """
import importlib, json, os, sys
problems = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as error:
        problems[name] = str(error)
print(json.dumps({
    "problems": problems,
    "torch": importlib.util.find_spec("torch") is not None,
    "programs": [each for each in os.environ["PATH"].split(":") + ["/bin", "/sbin", "/usr/bin", "/usr/sbin"]
                 if os.path.isdir(each) for each in os.listdir(each)],
    "user": [os.getuid(), os.getgid(), os.geteuid()],
    "packages": sorted(os.listdir(os.path.dirname(importlib.import_module("services").__file__))),
    "certificates": __import__("ssl").create_default_context().cert_store_stats()["x509_ca"],
}))
"""


def modules_of(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.py")):
        if "migrations" not in file.parts and file.name != "__main__.py":
            yield ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports_anywhere(folder: Path) -> Iterator[str]:
    """Yield what modules import, also inside functions, which nobody sees fail until they are called."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module


@pytest.mark.parametrize("chosen", LEAN, ids=lambda chosen: chosen.name)
def test_a_thin_image_is_small_and_holds_what_its_service_imports(chosen: Image) -> None:
    assert inspect(chosen.name)["Size"] < LARGEST_BYTES
    package = REPOSITORY / chosen.module.replace(".", "/")
    of_runtime = {
        each for each in imports_anywhere(REPOSITORY / "services/runtime") if not each.startswith("services.")
    }
    wanted = {*modules_of(package), *imports_anywhere(package), *of_runtime}
    others = {name for extra, names in OF_EXTRAS.items() if extra not in chosen.extras for name in names}
    told = sorted(each for each in wanted if each.partition(".")[0] not in OPTIONAL | others)
    seen = json.loads(run_in(chosen.name, "python", "-c", LOOK, json.dumps(told)))
    assert seen["problems"] == {}
    assert not seen["torch"]
    assert set(seen["programs"]) <= {"python", "python3", "python3.11", "evalfleet"}
    assert seen["user"] == [USER, USER, USER]
    assert seen["certificates"] > 100
    if chosen.kept_packages is not None:
        assert {each for each in seen["packages"] if not each.startswith(("_", "py.typed"))} == chosen.kept_packages


@pytest.mark.parametrize("chosen", IMAGES, ids=lambda chosen: chosen.name)
def test_an_image_says_what_it_is_and_what_it_consists_of(chosen: Image) -> None:
    found = inspect(chosen.name)
    labels = found["Labels"]
    assert labels["org.opencontainers.image.title"] == f"evalfleet/{chosen.name}"
    assert labels["org.opencontainers.image.version"] == release(REPOSITORY)
    assert found["Config"]["User"] == f"{USER}:{USER}"
    show = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text())"
    document = json.loads(run_in(chosen.name, "python", "-c", show, labels["dev.evalfleet.sbom.path"]))
    names = {each["name"] for each in document["components"]}
    assert {"evalfleet", "evalfleet-services", "grpcio", "libc6"} <= names
    kept = REPOSITORY / f"build/images/{chosen.name}.cdx.json"
    # Another checkout may have built it.
    assert not kept.exists() or json.loads(kept.read_text())["serialNumber"] == document["serialNumber"]


def test_what_was_cut_away_is_not_missed() -> None:
    """Libraries that files were taken from still compute."""
    special = (
        "from scipy.special import stdtrit, bdtr, ndtri; print(round(stdtrit(5, .975), 4), bdtr(2, 4, .5), ndtri(.5))"
    )
    assert run_in("aggregation", "python", "-c", special).split() == ["2.5706", "0.6875", "0.0"]
    sums = (
        "from math_verify import parse, verify; import punkt; from sacrebleu.metrics.bleu import BLEU;"
        "from rapidfuzz.distance import Levenshtein;"
        r"print(verify(parse(r'$\frac{1}{2}$'), parse('$0.5$')), len(list(punkt.tokenizer_for('english')"
        ".tokenize('Dr. Who came. He left.'))), BLEU(effective_order=True).sentence_score('a b', ['a b']).score > 99,"
        "Levenshtein.distance('ab', 'ac'))"
    )
    assert run_in("scoring", "python", "-c", sums).split() == ["True", "2", "True", "1"]
    table = (
        "import io, pyarrow; from pyarrow import parquet; buffer = io.BytesIO();"
        "parquet.write_table(pyarrow.table({'a': [1, 2]}), buffer, compression='zstd'); buffer.seek(0);"
        "print([row for batch in parquet.ParquetFile(buffer).iter_batches() for row in batch.to_pylist()])"
    )
    assert run_in("evaluation", "python", "-c", table).strip() == "[{'a': 1}, {'a': 2}]"


def test_the_command_line_is_in_the_dashboards_image() -> None:
    assert "Usage: evalfleet" in run_in("dashboard", "evalfleet", "--help")


def test_the_suites_come_along() -> None:
    listed = "import os, services.evaluation as e; print(*sorted(os.listdir(os.path.dirname(e.__file__) + '/suites')))"
    assert run_in("evaluation", "python", "-c", listed).split() == sorted(
        each.name for each in (PACKAGE_FOLDER / "suites").iterdir()
    )
