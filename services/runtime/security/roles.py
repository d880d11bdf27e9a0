"""Which role each method of the fleet needs: one table for all services."""

import enum
from collections.abc import Mapping
from typing import Final

from services.runtime.names import nearest_names


class Role(enum.StrEnum):
    """What somebody may do.

    A caller has exactly the roles that were given to it; none includes another. A service of the fleet, known by its
    certificate, has SERVICE, which includes all but ADMINISTER: no service loads or deletes models for others.
    """

    READ = "read"
    SCALE = "scale"
    CLASSIFY = "classify"
    EVALUATE = "evaluate"
    ADMINISTER = "administer"
    SERVICE = "service"


CALLER_ROLES: Final = frozenset(Role) - {Role.SERVICE}
"""Those that a key, a token or a certificate of a caller may give."""
SERVICE_ROLES: Final = frozenset(Role) - {Role.ADMINISTER}

OPEN: Final = None
"""No role, and no identity either."""

_TABLE: Final[Mapping[str, Mapping[str, Role | None]]] = {
    "evalfleet.generation.v1.GenerationService": {
        "Generate": Role.EVALUATE,
        "BatchGenerate": Role.EVALUATE,
        "StreamGenerate": Role.EVALUATE,
        "GenerateTokens": Role.EVALUATE,
        "ScoreContinuations": Role.EVALUATE,
        "StreamScoreContinuations": Role.EVALUATE,
        "ListCallerUsage": Role.READ,
    },
    "evalfleet.generation.v1.ModelService": {
        "CreateModel": Role.ADMINISTER,
        "DeleteModel": Role.ADMINISTER,
        "GetModel": Role.READ,
        "ListModels": Role.READ,
    },
    "evalfleet.safety.v1.SafetyService": {
        "Classify": Role.CLASSIFY,
        "BatchClassify": Role.CLASSIFY,
        "StreamClassify": Role.CLASSIFY,
        "ListGuards": Role.READ,
        "GetGuard": Role.READ,
        "ListPolicies": Role.READ,
        "GetPolicy": Role.READ,
    },
    "evalfleet.scoring.v1.ScoringService": {
        "Score": Role.EVALUATE,
        "BatchScore": Role.EVALUATE,
        "StreamScore": Role.EVALUATE,
        "ListScorers": Role.READ,
        "GetScorer": Role.READ,
    },
    "evalfleet.aggregation.v1.AggregationService": {
        "AppendResults": Role.EVALUATE,
        "CreateDrawing": Role.EVALUATE,
        "DrawItems": Role.EVALUATE,
        "PruneLedger": Role.ADMINISTER,
        "GetEstimates": Role.READ,
        "ListResults": Role.READ,
        "CompareRuns": Role.READ,
        "AnalyzeItems": Role.READ,
        "CheckRegressions": Role.READ,
        "RankRuns": Role.READ,
        "GetDecisions": Role.READ,
    },
    "evalfleet.evaluation.v1.EvaluationService": {
        "CreateRun": Role.EVALUATE,
        "CancelRun": Role.EVALUATE,
        "EstimateRun": Role.EVALUATE,
        "GetRun": Role.READ,
        "ListRuns": Role.READ,
        "WatchRun": Role.READ,
        "GetCallerBudget": Role.READ,
        "ListSuites": Role.READ,
        "GetSuite": Role.READ,
    },
    "evalfleet.evaluation.v1.RankingService": {
        "CreateRanking": Role.EVALUATE,
        "CancelRanking": Role.EVALUATE,
        "GetRanking": Role.READ,
        "ListRankings": Role.READ,
        "WatchRanking": Role.READ,
    },
    # It runs programs that models wrote, for the scoring service alone.
    "evalfleet.code_runner.v1.CodeRunnerService": {"RunProgram": Role.SERVICE, "GetSandbox": Role.SERVICE},
    "evalfleet.server.v1.ServerService": {"GetServerInfo": Role.READ},
    # Streams that last are not for strangers. Those by which gRPC itself looks after a channel carry no metadata, but
    # go over a connection that has shown a certificate.
    "grpc.health.v1.Health": {"Check": OPEN, "Watch": Role.READ, "List": Role.READ},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": Role.READ},
    # KEDA has a certificate, and only asks how much work there is: whoever steals that reads no results with it.
    "externalscaler.ExternalScaler": {
        "IsActive": Role.SCALE,
        "StreamIsActive": Role.SCALE,
        "GetMetricSpec": Role.SCALE,
        "GetMetrics": Role.SCALE,
    },
    # Triton's protocol, as far as the local host speaks it; loading and listing models needs its key besides.
    "inference.GRPCInferenceService": {
        "ServerLive": Role.SERVICE,
        "ServerReady": Role.SERVICE,
        "ModelReady": Role.SERVICE,
        "ServerMetadata": Role.SERVICE,
        "ModelMetadata": Role.SERVICE,
        "ModelInfer": Role.SERVICE,
        "ModelStreamInfer": Role.SERVICE,
        "ModelConfig": Role.SERVICE,
        "ModelStatistics": Role.SERVICE,
        "RepositoryIndex": Role.SERVICE,
        "RepositoryModelLoad": Role.SERVICE,
        "RepositoryModelUnload": Role.SERVICE,
        "SystemSharedMemoryStatus": Role.SERVICE,
        "SystemSharedMemoryRegister": Role.SERVICE,
        "SystemSharedMemoryUnregister": Role.SERVICE,
        "CudaSharedMemoryStatus": Role.SERVICE,
        "CudaSharedMemoryRegister": Role.SERVICE,
        "CudaSharedMemoryUnregister": Role.SERVICE,
        "TraceSetting": Role.SERVICE,
        "LogSettings": Role.SERVICE,
    },
}

METHOD_ROLES: Final[Mapping[str, Role | None]] = {
    f"{service}/{method}": role for service, methods in _TABLE.items() for method, role in methods.items()
}
"""By ``package.Service/Method``. What is not in it may be called by nobody."""


def read_roles(words: list[str]) -> frozenset[Role]:
    """Return the roles of a caller by their names.

    Raises:
        ValueError: one is no role that a caller can have; the message suggests others.
    """
    names = sorted(CALLER_ROLES)
    for word in words:
        if word not in names:
            near = nearest_names(word, names)
            hint = f"did you mean {near[0]!r}?" if near else f"roles are {', '.join(names)}"
            raise ValueError(f"{word!r} is no role of a caller; {hint}")
    return frozenset(map(Role, words))
