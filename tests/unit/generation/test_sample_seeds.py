from hypothesis import given
from hypothesis import strategies as st

from services.generation.sample_seeds import sample_seed

INT64 = st.integers(-(2**63), 2**63 - 1)


def test_seeds_stay_what_they_were_published_as() -> None:
    assert sample_seed(0, 0) == 2956777324640025013
    assert sample_seed(42, 1) == 6499094962520836657


@given(INT64, st.integers(0, 127))
def test_seeds_fit_every_engine(seed: int, index: int) -> None:
    assert 0 <= sample_seed(seed, index) < 2**63


@given(INT64)
def test_samples_and_requests_have_seeds_of_their_own(seed: int) -> None:
    assert len({sample_seed(seed, index) for index in range(128)}) == 128
    assert sample_seed(seed, 0) != sample_seed(seed - 1 if seed > 0 else seed + 1, 0)
