from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines import token_choice
from services.inference.engines.token_choice import ChosenTokens, TokenChooser, choose_tokens
from services.inference.sampling import SamplingParameters

ENDS = frozenset({0})


def choose(logits: torch.Tensor, *samplings: SamplingParameters, generated: int = 0) -> ChosenTokens:
    choosers = [TokenChooser.of(each, ENDS) for each in samplings]
    return choose_tokens(logits, choosers, [generated] * len(choosers), want_probabilities=True)


def draws(logits: list[float], count: int = 2000, **parameters: Any) -> Counter[int]:
    chooser = TokenChooser.of(SamplingParameters(seed=1, **parameters), ENDS)
    row = torch.tensor([logits])
    return Counter(choose_tokens(row, [chooser], [9], want_probabilities=False).ids[0] for _ in range(count))


def test_temperature_zero_takes_the_most_probable() -> None:
    chosen = choose(torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]]), *[SamplingParameters(temperature=0)] * 2)
    assert chosen.ids == [1, 0]
    expected = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]]).log_softmax(-1)
    assert chosen.log_probabilities == pytest.approx([expected[0, 1].item(), expected[1, 0].item()], abs=1e-6)


def test_draws_follow_the_probabilities() -> None:
    counts = draws([0.0, 1.0, 2.0], count=6000)
    for token, probability in enumerate(torch.tensor([0.0, 1.0, 2.0]).softmax(-1).tolist()):
        assert counts[token] / 6000 == pytest.approx(probability, abs=0.03)


def test_temperature_sharpens() -> None:
    assert draws([0.0, 1.0], temperature=0.1)[1] > 1990 > draws([0.0, 1.0], temperature=10.0)[1]


def test_top_k_keeps_the_k_most_probable() -> None:
    assert set(draws([0.0, 1.0, 2.0, 1.5], top_k=2)) == {2, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert set(draws(logits, top_p=0.5)) == {0}
    assert set(draws(logits, top_p=0.51)) == {0, 1}
    assert set(draws(logits, top_p=0.9)) == {0, 1, 2}


def test_min_p_drops_what_is_far_less_probable_than_the_first() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert set(draws(logits, min_p=0.5)) == {0, 1}


def test_no_end_before_the_minimum() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0]])
    sampling = SamplingParameters(temperature=0, min_tokens=3)
    assert choose(logits, sampling, generated=2).ids == [2]
    assert choose(logits, sampling, generated=3).ids == [0]
    assert logits[0, 0] == 9.0


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from([{}, {"top_k": 5}, {"temperature": 0.0}, {"top_p": 0.5, "temperature": 2.0}]), max_size=4),
)
def test_a_seeded_row_draws_the_same_in_any_company(seed: int, others: list[dict[str, Any]]) -> None:
    torch.manual_seed(seed)
    own = torch.randn(1, 50)
    sampling = SamplingParameters(seed=seed, temperature=1.3)
    alone = [TokenChooser.of(sampling, ENDS)]
    crowd = [*(TokenChooser.of(SamplingParameters(**each), ENDS) for each in others), TokenChooser.of(sampling, ENDS)]
    for _ in range(3):
        company = torch.cat([torch.randn(len(others), 50), own])
        by_itself = choose_tokens(own, alone, [9], want_probabilities=False).ids[0]
        assert choose_tokens(company, crowd, [9] * len(crowd), want_probabilities=False).ids[-1] == by_itself


def test_seeds_of_different_sign_differ_and_no_seed_is_fresh() -> None:
    logits = torch.zeros(1, 1000)
    chosen = [choose(logits, SamplingParameters(seed=seed)).ids[0] for seed in (5, -5, None, None)]
    assert len(set(chosen)) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_without_numbers_is_marked_and_harms_no_other(bad: float) -> None:
    chosen = choose(torch.tensor([[1.0, bad], [0.0, 9.0]]), SamplingParameters(), SamplingParameters(temperature=0))
    assert chosen.is_finite == [False, True]
    assert chosen.ids[1] == 1


def test_the_last_token_with_a_probability_is_never_passed() -> None:
    class Largest:
        def random(self) -> float:
            return 1.0

    chooser = TokenChooser(SamplingParameters(top_k=2), Largest(), ENDS)  # type: ignore[arg-type]
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    assert choose_tokens(logits, [chooser], [9], want_probabilities=False).ids == [1]


@settings(deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 5, 40, 300]),
    st.sampled_from([1.0, 0.99, 0.5, 0.01]),
    st.sampled_from([0.0, 0.001, 0.3]),
    st.sampled_from([0.01, 1.0, 30.0]),
)
def test_a_narrow_sort_draws_what_a_full_sort_would(seed: int, k: int, p: float, m: float, spread: float) -> None:
    torch.manual_seed(seed)
    logits = (torch.randn(3, 200) * spread).round(decimals=2)
    sampling = SamplingParameters(seed=seed, top_k=k, top_p=p, min_p=m)
    drawn: list[list[int]] = []
    for candidates in (8, 200):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(token_choice, "_CANDIDATES", candidates)
            choosers = [TokenChooser.of(sampling, ENDS) for _ in range(3)]
            drawn.append(
                [i for _ in range(4) for i in choose_tokens(logits, choosers, [9] * 3, want_probabilities=False).ids]
            )
    assert drawn[0] == drawn[1]
