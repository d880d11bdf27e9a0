"""A service that tells what it runs, for clients to ask."""

from typing import Any

from evalfleet.server.v1 import server_pb2, server_pb2_grpc


class FakeServer(server_pb2_grpc.ServerServiceServicer):
    """Tells the same whoever asks."""

    def __init__(self) -> None:
        self.info = server_pb2.ServerInfo(
            service="generation",
            instance="pod-1:7",
            version="0.1.0",
            revision="abcdef0123456789",
            contract_digest="c" * 64,
            settings_digest="5" * 64,
            service_names=["evalfleet.generation.v1.GenerationService"],
            artifacts=[server_pb2.Artifact(name="models/step-100", digest="d" * 64)],
        )
        self.info.start_time.FromSeconds(1_700_000_000)
        self.info.uptime.FromSeconds(93_784)

    def GetServerInfo(self, request: Any, context: Any) -> server_pb2.GetServerInfoResponse:
        return server_pb2.GetServerInfoResponse(server=self.info)
