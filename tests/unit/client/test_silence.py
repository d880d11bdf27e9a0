"""A service that is there and answers nothing: its streams are replaced, and in the end an error says so."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.errors import DeadlineExceededError
from evalfleet.fleet import Fleet
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc

from tests.fakes.refusing import not_offered
from tests.patience import LONGEST_WAIT_SECONDS

OUTPUTS: list[dict[str, object]] = [{"text": str(number)} for number in range(3)]


class SilentScoring(scoring_pb2_grpc.ScoringServiceServicer):
    """Reads items and answers none, on its first ``silent_streams`` streams."""

    def __init__(self) -> None:
        self.silent_streams = 0
        self.opened_count = 0
        self.ended = threading.Semaphore(0)

    def StreamScore(
        self, request_iterator: Iterator[scoring_pb2.StreamScoreRequest], context: grpc.ServicerContext
    ) -> Iterator[scoring_pb2.StreamScoreResponse]:
        self.opened_count += 1
        if self.opened_count <= self.silent_streams:
            has_ended = threading.Event()
            context.add_callback(has_ended.set)
            has_ended.wait(LONGEST_WAIT_SECONDS)
            self.ended.release()
            return
        for each in request_iterator:
            yield scoring_pb2.StreamScoreResponse(
                item_id=each.item_id, response=scoring_pb2.ScoreResponse(metrics={"length": len(each.request.text)})
            )

    def Score(self, request: scoring_pb2.ScoreRequest, context: grpc.ServicerContext) -> scoring_pb2.ScoreResponse:
        not_offered(context)

    def BatchScore(
        self, request: scoring_pb2.BatchScoreRequest, context: grpc.ServicerContext
    ) -> scoring_pb2.BatchScoreResponse:
        not_offered(context)

    def ListScorers(
        self, request: scoring_pb2.ListScorersRequest, context: grpc.ServicerContext
    ) -> scoring_pb2.ListScorersResponse:
        not_offered(context)

    def GetScorer(
        self, request: scoring_pb2.GetScorerRequest, context: grpc.ServicerContext
    ) -> scoring_pb2.GetScorerResponse:
        not_offered(context)


@pytest.fixture
def service() -> SilentScoring:
    return SilentScoring()


@pytest.fixture
def targets(service: SilentScoring) -> Iterator[dict[str, str]]:
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield {"scoring": f"127.0.0.1:{port}"}
    server.stop(grace=None).wait()


def test_a_silent_stream_is_replaced_and_what_it_had_is_sent_again(
    service: SilentScoring, targets: dict[str, str]
) -> None:
    service.silent_streams = 1
    with Fleet.connect(targets) as fleet:
        told = fleet.scoring.score_many(OUTPUTS, scorer="x", silence_seconds=0.2, patience_seconds=LONGEST_WAIT_SECONDS)
        assert sorted(number for number, _ in told) == [0, 1, 2]
    assert service.ended.acquire(timeout=LONGEST_WAIT_SECONDS), "the silent stream is cancelled on the wire"


async def test_a_silent_stream_is_replaced_when_awaited(service: SilentScoring, targets: dict[str, str]) -> None:
    service.silent_streams = 1
    async with asyncio.timeout(LONGEST_WAIT_SECONDS), AsyncFleet.connect(targets) as fleet:
        told = fleet.scoring.score_many(OUTPUTS, scorer="x", silence_seconds=0.2, patience_seconds=LONGEST_WAIT_SECONDS)
        assert sorted([number async for number, _ in told]) == [0, 1, 2]
    assert await asyncio.to_thread(service.ended.acquire, timeout=LONGEST_WAIT_SECONDS)


async def test_a_service_that_stays_silent_is_an_error_of_its_own(
    service: SilentScoring, targets: dict[str, str]
) -> None:
    service.silent_streams = 1_000_000
    with Fleet.connect(targets) as fleet, pytest.raises(DeadlineExceededError) as blocking:
        await asyncio.to_thread(
            lambda: list(fleet.scoring.score_many(OUTPUTS, scorer="x", silence_seconds=0.02, patience_seconds=0.0))
        )
    async with asyncio.timeout(LONGEST_WAIT_SECONDS), AsyncFleet.connect(targets) as awaited:
        with pytest.raises(DeadlineExceededError) as caught:
            async for _ in awaited.scoring.score_many(OUTPUTS, scorer="x", silence_seconds=0.02, patience_seconds=0.0):
                pass
    assert [blocking.value.reason, caught.value.reason] == ["STREAM_SILENT", "STREAM_SILENT"]
