"""Scorers of other distributions: found by entry points of really installed ones, in a folder on ``sys.path``."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from structlog.testing import capture_logs

from services.runtime.errors import FailedPreconditionError, NotFoundError, StartupError, from_status
from services.runtime.testing import serve_in_process
from services.scoring.contract import ScoringItem, TextOutput
from services.scoring.messages import scorer_to_proto
from services.scoring.plugins import registry_with_plugins
from services.scoring.pool.pool import PoolLimits, ScorerPool
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.service import hosted

Install = Callable[..., None]

SHOUTING = """
from pydantic import Field

from services.scoring.contract import MetricDescription, Score, ScorerDescription, ScorerParameters

class ShoutingParameters(ScorerParameters):
    share: float = Field(0.5, description="From which share of capitals on.")

class Shouting:
    about = ScorerDescription("shouting", "1", "Capitals.", (MetricDescription("shouts", "1: yes."),){extra})
    parameters_type = ShoutingParameters

    {kind}def score(self, parameters, item, output):
        return Score({{"shouts": float(output.text.isupper())}}, None)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one module and one entry point, as pip does."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(
        module: str, code: str, *, name: str = "shouting", attribute: str = "Shouting", version: str = "1.0"
    ) -> None:
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{module}-{version}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        (folder / "entry_points.txt").write_text(f"[evalfleet.scorers]\n{name} = {module}:{attribute}\n")

    return put


def shouting(*, kind: str = "", extra: str = "") -> str:
    return SHOUTING.format(kind=kind, extra=extra)


def digest_of(registry: ScorerRegistry) -> str:
    return registry.bind("scorers/shouting", {}).reference.digest


def test_a_plug_in_is_a_scorer_like_others(install: Install) -> None:
    install("evalfleet_shouting_a", shouting())
    registry = registry_with_plugins(builtin_scorers())
    bound = registry.bind("scorers/shouting", {"share": 0.25})
    assert bound.score(ScoringItem(), TextOutput("HO")).metrics == {"shouts": 1.0}
    told = scorer_to_proto(registry.find("scorers/shouting"))
    assert [(each.name, each.default_value.number_value) for each in told.parameters] == [("share", 0.5)]
    assert told.reference.digest == digest_of(registry)
    assert "scorers/exact_match" in [f"scorers/{each.about.name}" for each in registry.scorers]


def test_the_digest_covers_the_version_of_the_distribution(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("evalfleet_shouting_b", shouting())
    first = digest_of(registry_with_plugins(()))
    assert digest_of(registry_with_plugins(())) == first
    (tmp_path / "evalfleet_shouting_b-1.0.dist-info").rename(tmp_path / "evalfleet_shouting_b-1.1.dist-info")
    metadata = tmp_path / "evalfleet_shouting_b-1.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    assert digest_of(registry_with_plugins(())) != first


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("raise SystemExit(3)", "SystemExit"),
        ("Shouting = 7", "int"),
        ("class Shouting: about = 'none'", "is no scorer"),
        (shouting().replace("ShoutingParameters\n\n", "dict\n\n"), "ScorerParameters"),
        (shouting().replace('"shouting", "1"', '"whispering", "1"'), "whispering"),
        (shouting().replace("float = Field(0.5,", "float = Field("), "share"),
        (shouting().replace("float = Field(0.5,", "bytes = Field(b'',"), "bytes"),
    ],
)
def test_a_broken_one_takes_nobody_down_and_is_told_to_who_asks_for_it(
    install: Install, code: str, problem: str
) -> None:
    install("evalfleet_shouting_c", code)
    with capture_logs() as logs:
        registry = registry_with_plugins(builtin_scorers())
    [entry] = [each for each in logs if each["event"] == "scorer_plugin_broken"]
    assert (entry["plugin"], entry["distribution"]) == ("shouting", "evalfleet_shouting_c 1.0")
    assert problem in entry["problem"]
    with pytest.raises(FailedPreconditionError) as caught:
        registry.find("scorers/shouting")
    assert caught.value.reason == "SCORER_BROKEN"
    assert problem in caught.value.message
    assert len(registry.scorers) == len(builtin_scorers())
    with pytest.raises(NotFoundError):
        registry.find("scorers/shoutin")


def test_two_scorers_of_one_name_are_an_error_of_the_start(install: Install) -> None:
    code = shouting().replace('"shouting", "1"', '"exact_match", "1"')
    install("evalfleet_shouting_d", code, name="exact_match")
    with pytest.raises(StartupError, match=r"evalfleet_shouting_d\.Shouting") as caught:
        registry_with_plugins(builtin_scorers())
    assert caught.value.reason == "SCORER_NAME_TAKEN"


async def test_one_may_wait(install: Install) -> None:
    install("evalfleet_shouting_e", shouting(kind="async "))
    bound = registry_with_plugins(()).bind("scorers/shouting", {})
    assert bound.is_async
    assert (await bound.score_async(ScoringItem(), TextOutput("ho"))).metrics == {"shouts": 0.0}


async def test_one_may_be_heavy(install: Install) -> None:
    install("evalfleet_shouting_f", shouting(extra=", is_heavy=True"))
    pool = ScorerPool(PoolLimits(workers=1))
    try:
        bound = registry_with_plugins(()).bind("scorers/shouting", {})
        assert (await pool.score(bound, ScoringItem(), TextOutput("HO"))).metrics == {"shouts": 1.0}
    finally:
        await pool.close()


NO_SCORES = [
    "None",
    "Score({'shouts': 'loudly'}, None)",
    "Score({'shouts': 1.0}, '\\ud800')",
    "Score({'shouts': float('nan')}, None)",
    "Score({'\\ud800': 1.0}, None)",
    "Score({'': 1.0}, None)",
    "Score({'shouts': 1.0}, None, usage='much')",
    "Score({'shouts': 1.0}, None, usage=Usage(prompt_tokens=2**63))",
    "Score({'shouts': 1.0}, None, cached='perhaps')",
    "Score({'shouts': 1.0}, None, decided_by='\\ud800')",
]


def giving(score: str) -> str:
    given = f"from services.runtime.usage import Usage; return {score}"
    return shouting().replace('return Score({"shouts": float(output.text.isupper())}, None)', given)


@pytest.mark.parametrize("given", NO_SCORES)
async def test_what_is_no_score_is_a_bug_of_one_output(install: Install, given: str) -> None:
    install("evalfleet_shouting_g", giving(given))
    async with serve_in_process(hosted(registry_with_plugins(builtin_scorers()))) as channel:
        requests = [scoring_pb2.ScoreRequest(scorer=f"scorers/{name}", text="HO") for name in ("shouting", "refusal")]
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        wrong, fine = (await stub.BatchScore(scoring_pb2.BatchScoreRequest(requests=requests))).results
    assert from_status(wrong.status).code == grpc.StatusCode.INTERNAL
    assert fine.HasField("response")


@pytest.mark.parametrize("given", NO_SCORES)
async def test_what_is_no_score_is_a_bug_of_one_item_of_a_stream(install: Install, given: str) -> None:
    install("evalfleet_shouting_h", giving(given))
    async with serve_in_process(hosted(registry_with_plugins(builtin_scorers()))) as channel:
        items = [
            scoring_pb2.StreamScoreRequest(
                item_id=name, request=scoring_pb2.ScoreRequest(scorer=f"scorers/{name}", text="HO")
            )
            for name in ("shouting", "refusal")
        ]
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        outcomes = {outcome.item_id: outcome async for outcome in stub.StreamScore(iter(items))}
    assert from_status(outcomes["shouting"].status).code == grpc.StatusCode.INTERNAL
    assert outcomes["refusal"].HasField("response")


async def test_a_metric_without_limit_is_a_score(install: Install) -> None:
    install("evalfleet_shouting_i", giving("Score({'shouts': float('inf'), 'pass@1': 0}, None)"))
    bound = registry_with_plugins(()).bind("scorers/shouting", {})
    assert bound.score(ScoringItem(), TextOutput("ho")).metrics == {"shouts": math.inf, "pass@1": 0.0}
