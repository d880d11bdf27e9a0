"""Puts the evaluation service together from its settings."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from prometheus_client import CollectorRegistry

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.hub import HuggingFaceHub
from services.evaluation.rankings.manager import RankingManager
from services.evaluation.rankings.remote_judge import RemoteJudge
from services.evaluation.rankings.service import RankingServicer
from services.evaluation.rankings.store import RankingStore
from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.caller_budgets import CallerBudgets
from services.evaluation.runs.leases import process_name
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.outcome_metrics import OutcomeMetrics
from services.evaluation.runs.paced_peers import (
    PacedGenerator,
    PacedSafetyJudge,
    PacedScorerPanel,
    PeerMetrics,
    work_of,
)
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.planner import RunPlanner
from services.evaluation.runs.remote import RemoteGenerator, RemoteLedger
from services.evaluation.runs.remote_drawings import RemoteDrawings
from services.evaluation.runs.remote_safety import RemoteSafetyJudge
from services.evaluation.runs.remote_scoring import RemoteScorerPanel
from services.evaluation.runs.run_metrics import RunMetrics
from services.evaluation.runs.store import RunStore
from services.evaluation.scaling.open_work import OpenWork, Places
from services.evaluation.scaling.refusals import Refusals
from services.evaluation.scaling.service import hosted_scaler
from services.evaluation.service import EvaluationServicer
from services.evaluation.settings import EvaluationSettings
from services.evaluation.suite_book import CatalogBook
from services.runtime.adaptive_limit import AdaptiveLimit
from services.runtime.channels import open_channel
from services.runtime.database import open_database
from services.runtime.security.certificates import fleet_certificates
from services.runtime.server import HostedService
from services.runtime.work import Work, WorkSource

MIGRATIONS = Path(__file__).parent / "migrations"
_SERVICE = evaluation_pb2.DESCRIPTOR.services_by_name["EvaluationService"].full_name
_RANKING_SERVICE = ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name


@asynccontextmanager
async def build(settings: EvaluationSettings, registry: CollectorRegistry) -> AsyncIterator[Sequence[HostedService]]:
    """Open the database, connect to the other services and take unfinished runs up again.

    Raises:
        StartupError: the database, or the file of callers' budgets, cannot be used.
        FailedPreconditionError: a suite folder does not exist.
    """
    budgets = CallerBudgets.read(settings.caller_budgets)
    catalog = Catalog.load(settings.suite_folders)
    for problem in catalog.problems:
        structlog.get_logger(__name__).warning("definition_broken", problem=problem.message)
    async with AsyncExitStack() as stack:
        engine = await open_database(
            settings.database_url, migrations=MIGRATIONS, schema="evaluation", use=settings.database_use
        )
        stack.push_async_callback(engine.dispose)
        peers, ledger, judge, work = await _connect(settings, registry, stack)
        store = RunStore(engine)
        book = CatalogBook(catalog, DataRoots(settings.data_folders, HuggingFaceHub()))
        allowances = Allowances(budgets, AccountStore(engine, process_name()))
        stack.push_async_callback(allowances.stop)
        await allowances.start()
        manager = RunManager(
            store,
            book,
            peers,
            parallel_runs=settings.parallel_runs,
            default_concurrency=settings.default_concurrency,
            patience_seconds=settings.patience_seconds,
            lease_times=settings.lease_times,
            allowances=allowances,
        )
        registry.register(RunMetrics(manager.open_runs))
        stack.push_async_callback(manager.stop)
        await manager.start()
        ranking_store = RankingStore(engine)
        rankings = RankingManager(
            ranking_store,
            store,
            book,
            peers,
            judge,
            parallel_rankings=settings.parallel_rankings,
            default_concurrency=settings.default_concurrency,
            patience_seconds=settings.patience_seconds,
            lease_times=settings.lease_times,
            allowances=allowances,
        )
        stack.push_async_callback(rankings.stop)
        await rankings.start()
        refusals = Refusals()
        ranking_servicer = RankingServicer(rankings, refusals)
        planner = RunPlanner(store, book, ledger, peers.generator, allowances)
        servicer = EvaluationServicer(manager, planner, catalog, ledger, allowances, refusals)
        places = Places(settings.parallel_runs, settings.parallel_rankings)
        open_work = OpenWork(store, ranking_store, book, places)
        yield [
            HostedService(
                full_name=_SERVICE,
                add_to_server=lambda server: evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(
                    servicer, server
                ),
                readiness=store.is_ready,
                unbounded_methods=frozenset({"WatchRun"}),
                work=work,
            ),
            HostedService(
                full_name=_RANKING_SERVICE,
                add_to_server=lambda server: ranking_pb2_grpc.add_RankingServiceServicer_to_server(
                    ranking_servicer, server
                ),
                readiness=store.is_ready,
                unbounded_methods=frozenset({"WatchRanking"}),
            ),
            hosted_scaler(open_work, refusals, connection_seconds=settings.max_connection_age_seconds),
        ]


async def _connect(
    settings: EvaluationSettings, registry: CollectorRegistry, stack: AsyncExitStack
) -> tuple[Peers, RemoteLedger, RemoteJudge, WorkSource]:
    """Channels to the four other services, closed with ``stack``; and what says how many items they have."""
    timeout = settings.call_timeout_seconds
    channels = []
    certificates = fleet_certificates(settings)
    for target in (
        settings.generation_target,
        settings.safety_target,
        settings.scoring_target,
        settings.aggregation_target,
    ):
        channels.append(await stack.enter_async_context(open_channel(target, certificates=certificates)))
    generation, safety, scoring, aggregation = channels
    ledger = RemoteLedger(aggregation, timeout_seconds=timeout, metrics=OutcomeMetrics(registry))
    metrics = PeerMetrics(registry)

    def make_limit(service: str) -> AdaptiveLimit:
        return AdaptiveLimit(largest=settings.most_in_flight, told=metrics.counter(service))

    generator = PacedGenerator(RemoteGenerator(generation, timeout_seconds=timeout), partial(make_limit, "generation"))
    safety_limit, scoring_limit = make_limit("safety"), make_limit("scoring")
    metrics.show("generation", lambda: generator.smallest_limit)
    metrics.show("safety", lambda: safety_limit.limit)
    metrics.show("scoring", lambda: scoring_limit.limit)
    peers = Peers(
        generator=generator,
        safety=PacedSafetyJudge(RemoteSafetyJudge(safety, timeout_seconds=timeout), safety_limit),
        scorers=PacedScorerPanel(RemoteScorerPanel(scoring, timeout_seconds=timeout), scoring_limit),
        ledger=ledger,
        drawings=RemoteDrawings(aggregation, timeout_seconds=timeout),
    )

    def work() -> Work:
        return generator.work() + work_of(safety_limit) + work_of(scoring_limit)

    return peers, ledger, RemoteJudge(aggregation, timeout_seconds=timeout), work
