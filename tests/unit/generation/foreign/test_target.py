import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.foreign.errors import ForeignTargetRefusedError
from services.generation.foreign.target import AllowedTargets, ForeignProtocol, ForeignTarget, is_target
from services.generation.settings import GenerationSettings

TARGET = ForeignTarget("llm:8001", "llama", ForeignProtocol.VLLM_BACKEND, "1", "w1")


@pytest.mark.parametrize("text", ["llm:8001", "llm.example.org:1", "10.0.0.1:65535", "[::1]:8001"])
def test_hosts_with_ports_are_targets(text: str) -> None:
    assert is_target(text)


@pytest.mark.parametrize(
    "text", ["", "llm", "llm:", ":8001", "llm:0", "llm:65536", "unix:/tmp/x", "dns:///llm:8001", "a b:1", "x:1,y:2"]
)
def test_nothing_else_is_a_target(text: str) -> None:
    assert not is_target(text)


def test_only_what_the_operator_lists_may_be_asked() -> None:
    allowed = AllowedTargets(GenerationSettings(foreign_tritons=" LLM:8001 , other:1,").foreign_targets)
    allowed.check("llm:8001")
    with pytest.raises(ForeignTargetRefusedError, match="EVALFLEET_FOREIGN_TRITONS"):
        allowed.check("llm:8002")
    with pytest.raises(ForeignTargetRefusedError):
        AllowedTargets(GenerationSettings().foreign_targets).check("llm:8001")


def test_a_list_that_cannot_be_read_keeps_the_service_from_starting() -> None:
    with pytest.raises(ValueError, match="host:port"):
        GenerationSettings(foreign_tritons="http://llm:8001")


@given(st.builds(ForeignTarget, st.text(), st.text(), st.sampled_from(ForeignProtocol), st.text(), st.text()))
def test_the_registry_gives_back_what_it_was_given(target: ForeignTarget) -> None:
    assert ForeignTarget.from_json(target.to_json()) == target


def test_the_digest_changes_with_everything_that_is_known() -> None:
    others = [
        ForeignTarget("llm:8002", "llama", ForeignProtocol.VLLM_BACKEND, "1", "w1"),
        ForeignTarget("llm:8001", "other", ForeignProtocol.VLLM_BACKEND, "1", "w1"),
        ForeignTarget("llm:8001", "llama", ForeignProtocol.TENSORRT_LLM, "1", "w1"),
        ForeignTarget("llm:8001", "llama", ForeignProtocol.VLLM_BACKEND, "2", "w1"),
        ForeignTarget("llm:8001", "llama", ForeignProtocol.VLLM_BACKEND, "1", "w2"),
    ]
    digests = {each.digest("tokenizer") for each in (TARGET, *others)} | {TARGET.digest("another tokenizer")}
    assert len(digests) == 7
