"""A fake of the generation service's models: registers what it is given, in memory."""

import grpc
from evalfleet.generation.v1 import model_pb2, model_pb2_grpc

from tests.fakes.demo_run import CREATED
from tests.fakes.refusing import fail


class FakeModels(model_pb2_grpc.ModelServiceServicer):
    """Keeps models in a dict; a new one is LOADING for ``loading_polls`` reads, then ``final_state``."""

    def __init__(self) -> None:
        self.models: dict[str, model_pb2.Model] = {}
        self.requests: list[model_pb2.CreateModelRequest] = []
        self.loading_polls = 0
        self.final_state: model_pb2.ModelState.ValueType = model_pb2.MODEL_STATE_READY
        self.failure = ""
        self.refusal = ""
        self.page_size = 1000

    def put(self, model_id: str, path: str = "/checkpoints/x") -> model_pb2.Model:
        """Register a READY model."""
        self.models[f"models/{model_id}"] = model = model_pb2.Model(
            name=f"models/{model_id}",
            checkpoint_path=path,
            digest="ab" * 32,
            state=model_pb2.MODEL_STATE_READY,
            architecture="LlamaForCausalLM",
            dtype="float32",
            context_tokens=512,
            weight_bytes=5 * 1024 * 1024,
            create_time=CREATED,
        )
        return model

    def CreateModel(
        self, request: model_pb2.CreateModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.CreateModelResponse:
        self.requests.append(request)
        if self.refusal:
            fail(context, grpc.StatusCode.INVALID_ARGUMENT, "the checkpoint is refused", reason=self.refusal)
        model = self.put(request.model_id or "made-from-folder", request.checkpoint_path)
        if request.HasField("foreign"):
            model.foreign.CopyFrom(request.foreign)
            model.engine = "vllm_backend"
        model.state = model_pb2.MODEL_STATE_LOADING if self.loading_polls else self.final_state
        model.failure = "" if self.loading_polls else self.failure
        return model_pb2.CreateModelResponse(model=model)

    def GetModel(self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext) -> model_pb2.GetModelResponse:
        model = self._find(request.name, context)
        if model.state == model_pb2.MODEL_STATE_LOADING:
            self.loading_polls -= 1
            if self.loading_polls <= 0:
                model.state, model.failure = self.final_state, self.failure
        return model_pb2.GetModelResponse(model=model)

    def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        names = sorted(self.models)
        start = int(request.page_token or 0)
        page = names[start : start + self.page_size]
        following = str(start + self.page_size) if start + self.page_size < len(names) else ""
        return model_pb2.ListModelsResponse(models=[self.models[each] for each in page], next_page_token=following)

    def DeleteModel(
        self, request: model_pb2.DeleteModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.DeleteModelResponse:
        self._find(request.name, context)
        del self.models[request.name]
        return model_pb2.DeleteModelResponse()

    def _find(self, name: str, context: grpc.ServicerContext) -> model_pb2.Model:
        if name not in self.models:
            message = f"no model named {name!r}; did you mean 'step-100'?"
            fail(context, grpc.StatusCode.NOT_FOUND, message, reason="MODEL_NOT_FOUND", metadata={"name": name})
        return self.models[name]
