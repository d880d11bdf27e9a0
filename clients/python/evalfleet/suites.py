"""The suites that a fleet can run."""

from evalfleet import decoding
from evalfleet.connections import LARGEST_PAGE, Connection
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.names import full_name
from evalfleet.results import Suite


class Suites:
    """The evaluation service's suites; names may be given as ``suites/demo`` or ``demo``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> evaluation_pb2_grpc.EvaluationServiceStub:
        return self._connection.stub(evaluation_pb2_grpc.EvaluationServiceStub)

    def list(self) -> tuple[Suite, ...]:
        """List the suites, ordered by name."""
        pages = self._connection.pages(
            self._stub.ListSuites,
            lambda token: evaluation_pb2.ListSuitesRequest(page_size=LARGEST_PAGE, page_token=token),
        )
        return tuple(decoding.suite(each) for page in pages for each in page.suites)

    def get(self, name: str) -> Suite:
        """Read one suite."""
        request = evaluation_pb2.GetSuiteRequest(name=full_name("suites", name))
        return decoding.suite(self._connection.call(self._stub.GetSuite, request, may_be_hedged=True).suite)
