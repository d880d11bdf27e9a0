"""How outcomes of a bulk stream share messages."""

from evalfleet.scoring.v1 import scoring_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import InvalidArgumentError
from services.runtime.item_streams import Outcome
from services.runtime.outcome_messages import outcome_messages

MESSAGE_BYTES = 16 * 1024 * 1024
GROUP_BYTES = 256 * 1024


def respond(size: int) -> scoring_pb2.ScoreResponse:
    if size < 0:
        raise ValueError("no message holds this")
    response = scoring_pb2.ScoreResponse()
    response.extracted_answer = "x" * size
    return response


def written(*results: int | BaseException, together: bool = True) -> list[scoring_pb2.StreamScoreResponse]:
    outcomes = [Outcome(str(number), each) for number, each in enumerate(results)]
    return list(outcome_messages(outcomes, scoring_pb2.StreamScoreResponse, respond, together=together))


def ids(message: scoring_pb2.StreamScoreResponse) -> list[str]:
    return [message.item_id, *(each.item_id for each in message.more)]


def test_a_large_outcome_takes_no_neighbours_along() -> None:
    large = MESSAGE_BYTES - 1024
    messages = written(200 * 1024, large, 10, 20)
    assert [ids(each) for each in messages] == [["0"], ["1"], ["2", "3"]]
    assert all(each.ByteSize() <= MESSAGE_BYTES for each in messages)


def test_small_outcomes_share_a_message_and_failures_keep_to_themselves() -> None:
    [message] = written(10, InvalidArgumentError("no"), -1, 10)
    assert message.response.extracted_answer == "x" * 10
    assert [each.WhichOneof("outcome") for each in message.more] == ["status", "status", "response"]
    assert [ids(each) for each in written(10, 10, together=False)] == [["0"], ["1"]]


@given(st.lists(st.sampled_from([0, 1000, GROUP_BYTES // 2, GROUP_BYTES, 3 * GROUP_BYTES]), max_size=6))
def test_every_outcome_is_told_once_and_in_order_and_only_one_alone_is_large(sizes: list[int]) -> None:
    messages = written(*sizes)
    assert [each for message in messages for each in ids(message)] == [str(number) for number in range(len(sizes))]
    assert all(not message.more or message.ByteSize() < GROUP_BYTES + 1024 for message in messages)
