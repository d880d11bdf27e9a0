"""What is repeated, when, and how often."""

import pytest
from evalfleet.errors import (
    AbortedError,
    EvalFleetError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from evalfleet.retrying import DEFAULT_RETRIES, Attempts, RetryPolicy, RetryThrottle

AWAY = UnavailableError("away")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def begin(
    *,
    policy: RetryPolicy = DEFAULT_RETRIES,
    throttle: RetryThrottle | None = None,
    timeout_seconds: float = 60.0,
    is_idempotent: bool = True,
    clock: Clock | None = None,
) -> Attempts:
    return Attempts(
        policy,
        throttle or RetryThrottle(),
        timeout_seconds=timeout_seconds,
        is_idempotent=is_idempotent,
        clock=clock or Clock(),
    )


def test_pauses_double_up_to_a_bound_with_jitter_and_then_the_error_stands() -> None:
    attempts = begin(policy=RetryPolicy(attempts=6, first_pause_seconds=1.0, longest_pause_seconds=4.0))
    pauses = [attempts.pause_after(AWAY) for _ in range(5)]
    # The throttle has its say, too: after five failures in a row it closes.
    assert pauses[4] is None
    for pause, mean in zip(pauses, (1.0, 2.0, 4.0, 4.0), strict=False):
        assert pause is not None
        assert 0.8 * mean <= pause <= 1.2 * mean
    assert len({begin().pause_after(AWAY) for _ in range(20)}) > 1


def test_a_service_is_not_asked_before_it_wants_to_be() -> None:
    pause = begin().pause_after(ResourceExhaustedError("busy", retry_after_seconds=3.0))
    assert pause is not None
    assert 3.0 <= pause <= 3.6
    assert begin().pause_after(AbortedError("conflict", retry_after_seconds=0.1)) is not None


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgumentError("wrong"),
        InternalError("bug"),
        ResourceExhaustedError("full, and nobody knows until when"),
        AbortedError("conflict"),
        UnavailableError("draining for good", is_retry_refused=True),
    ],
)
def test_what_would_fail_again_is_not_repeated(error: EvalFleetError) -> None:
    assert begin().pause_after(error) is None


def test_what_is_not_idempotent_is_never_repeated() -> None:
    assert begin(is_idempotent=False).pause_after(AWAY) is None


def test_no_pause_is_longer_than_the_time_left() -> None:
    clock = Clock()
    attempts = begin(timeout_seconds=10.0, clock=clock)
    clock.now = 9.0
    assert attempts.remaining_seconds == 1.0
    assert attempts.pause_after(ResourceExhaustedError("busy", retry_after_seconds=2.0)) is None
    clock.now = 11.0
    assert attempts.remaining_seconds == 0.0


def test_a_sick_service_is_spared_until_it_answers_again() -> None:
    throttle = RetryThrottle()
    repeated = sum(begin(throttle=throttle).pause_after(AWAY) is not None for _ in range(20))
    assert repeated == 4
    # One that says when to come back knows what it is doing.
    busy = ResourceExhaustedError("busy", retry_after_seconds=0.1)
    assert begin(throttle=throttle).pause_after(busy) is not None
    for _ in range(70):
        begin(throttle=throttle).succeeded()
    assert begin(throttle=throttle).pause_after(AWAY) is not None


def unanswered() -> UnavailableError:
    error = UnavailableError("out of reach")
    error.is_unanswered = True
    return error


def answered_before() -> RetryThrottle:
    throttle = RetryThrottle()
    throttle.succeeded()
    return throttle


def test_a_service_that_is_being_restarted_is_waited_for_longer_than_the_tries_last() -> None:
    clock, throttle = Clock(), answered_before()
    attempts = begin(policy=RetryPolicy(attempts=2, restart_seconds=10.0), throttle=throttle, clock=clock)
    while (pause := attempts.pause_after(unanswered())) is not None:
        clock.now += pause
    assert 8.0 <= clock.now <= 14.0
    # Nobody was there who could have been overrun.
    assert throttle.is_open


def test_a_service_that_was_never_there_is_not_waited_for() -> None:
    clock = Clock()
    attempts = begin(policy=RetryPolicy(attempts=3, restart_seconds=1000.0), clock=clock)
    while (pause := attempts.pause_after(unanswered())) is not None:
        clock.now += pause
    assert clock.now < 2.0


def test_what_a_service_itself_says_of_being_away_is_no_restart() -> None:
    attempts = begin(policy=RetryPolicy(attempts=1), throttle=answered_before())
    assert attempts.pause_after(AWAY) is None


def test_a_restart_is_no_reason_to_repeat_what_may_not_be() -> None:
    assert begin(throttle=answered_before(), is_idempotent=False).pause_after(unanswered()) is None
