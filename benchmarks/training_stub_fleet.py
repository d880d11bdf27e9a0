"""A fleet that costs nothing: it takes checkpoints and runs, and says after some seconds what they came to.

``python -m benchmarks.training_stub_fleet`` prints its address and serves until its standard input ends.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.generation.v1 import model_pb2, model_pb2_grpc

RUN_SECONDS = 3.0
_TASKS = [f"task_{number}" for number in range(20)]


class StubFleet(
    model_pb2_grpc.ModelServiceServicer,
    evaluation_pb2_grpc.EvaluationServiceServicer,
    aggregation_pb2_grpc.AggregationServiceServicer,
):
    """Runs of twenty tasks with three metrics each, which end by themselves."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}

    def CreateModel(
        self, request: model_pb2.CreateModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.CreateModelResponse:
        """Take a checkpoint."""
        name = f"models/m{abs(hash(request.checkpoint_path))}"
        return model_pb2.CreateModelResponse(model=model_pb2.Model(name=name, state=model_pb2.MODEL_STATE_READY))

    def CreateRun(
        self, request: evaluation_pb2.CreateRunRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.CreateRunResponse:
        """Start a run."""
        name = f"runs/{request.request_id}"
        self._began.setdefault(name, time.monotonic())
        return evaluation_pb2.CreateRunResponse(run=self._run(name))

    def GetRun(
        self, request: evaluation_pb2.GetRunRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.GetRunResponse:
        """Say how far it is."""
        return evaluation_pb2.GetRunResponse(run=self._run(request.name))

    def GetEstimates(
        self, request: aggregation_pb2.GetEstimatesRequest, context: grpc.ServicerContext
    ) -> aggregation_pb2.GetEstimatesResponse:
        """Say what it found."""
        interval = aggregation_pb2.Interval(lower=0.4, upper=0.6, confidence_level=0.95, method="wilson")
        return aggregation_pb2.GetEstimatesResponse(
            estimates=[
                aggregation_pb2.Estimate(task=task, metric=metric, value=0.5, interval=interval, scored_count=100)
                for task in _TASKS
                for metric in ("acc", "acc_norm", "answered")
            ],
            totals=[aggregation_pb2.TaskTotals(task=task, item_count=100, scored_count=100) for task in _TASKS],
        )

    def _run(self, name: str) -> evaluation_pb2.Run:
        is_over = time.monotonic() - self._began[name] > RUN_SECONDS
        return evaluation_pb2.Run(
            name=name,
            state=evaluation_pb2.RUN_STATE_SUCCEEDED if is_over else evaluation_pb2.RUN_STATE_RUNNING,
            tasks=[evaluation_pb2.TaskProgress(task=task, item_count=100) for task in _TASKS],
        )


def main() -> None:
    """Serve on a free loopback port."""
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    stub = StubFleet()  # type: ignore[abstract]  # methods that nobody calls
    model_pb2_grpc.add_ModelServiceServicer_to_server(stub, server)
    evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(stub, server)
    aggregation_pb2_grpc.add_AggregationServiceServicer_to_server(stub, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(grace=None).wait()


if __name__ == "__main__":
    main()
