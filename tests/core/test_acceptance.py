"""Acceptance models do what they say, and the sampler draws from them: checked on what a run's log shows.

Statistical checks compare a share with its probability in standard errors; with fixed seeds they are deterministic.
Every verdict counted here is, given all before it, an independent draw with the stated probability.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice, product
from math import isnan, sqrt

import numpy as np
import pytest
from simulated import HISPEC, LayerCost, Round, cascade, rounds_of, simulate

from hispec_sim.acceptance.models import (
    AcceptanceModel,
    Correlated,
    Independent,
    LevelAgreement,
    PerPosition,
    fate_probabilities,
)
from hispec_sim.acceptance.sampler import FateTable, ModelSampler, Uniforms
from hispec_sim.cascade import Bonus, Cascade
from hispec_sim.errors import InputError
from hispec_sim.step_graph import Kind, StepGraph

SIGMAS = 4.0  # a correct sampler exceeds it in one check of 16 000
CORRELATED = Correlated((LevelAgreement(0.7, 0.7, 0.2), LevelAgreement(0.95, 0.6, 0.4)))


@dataclass
class Tally:
    """Accepted out of seen."""

    accepted: int = 0
    seen: int = 0

    def add(self, accepted: bool) -> None:
        self.accepted += accepted
        self.seen += 1

    def assert_share(self, probability: float, at_least: int = 2000) -> None:
        assert self.seen >= at_least
        deviation = abs(self.accepted / self.seen - probability)
        assert deviation <= SIGMAS * sqrt(probability * (1 - probability) / self.seen)


def tallies() -> defaultdict[tuple[int, str, int], Tally]:
    return defaultdict(Tally)


@dataclass
class Verdicts:
    """What verifiers said of the tokens that stood before them on the target's path.

    Keys are (verifier, where the token came from, its place in the run). A token is "confirmed" by the level below
    (or "drafted"), or that level's own: "corrected" or "bonus". Tokens behind the first rejection have no verdict.
    """

    by: defaultdict[tuple[int, str, int], Tally] = field(default_factory=tallies)

    def add_round(self, done: Round) -> None:
        """Only the part of the round before the first token that the target rejects: the target's path."""
        held: list[list[str]] = [[] for _ in range(len(done.moves[0].source.state.tentative))]
        on_path = done.moves[-1].matched
        for move in done.moves:
            node, matched = move.source, move.matched
            if node.kind is Kind.DRAFT:
                held[0].append("drafted")
            elif node.kind is Kind.VERIFY:
                begin = len(held[node.level])
                run = held[node.level - 1][begin:]
                for place in range(min(matched + 1, len(run), on_path + 1 - begin)):
                    self.by[node.level, run[place], place].add(place < matched)
                own = ["corrected"] if matched < len(run) else ["bonus"] * node.bonus
                confirmed = held[node.level] + ["confirmed"] * matched + own
                for level in range(node.level + 1):
                    held[level] = list(confirmed)

    def of(self, level: int, origin: str | None = None, place: int | None = None) -> Tally:
        total = Tally()
        for (verifier, token, at), tally in self.by.items():
            if verifier == level and origin in (None, token) and place in (None, at):
                total.accepted += tally.accepted
                total.seen += tally.seen
        return total


def verdicts(decoded_with: Cascade, model: AcceptanceModel, tokens: int = 30_000, seed: int = 0) -> Verdicts:
    found = Verdicts()
    log = simulate(decoded_with, model, [(1, 2000)] * (tokens // 2000), seed=seed, cost=LayerCost())
    for done in rounds_of(log):
        found.add_round(done)
    return found


MODELS = (
    Independent((0.3, 0.8, 1.0)),
    PerPosition(((0.9, 0.5), (0.2,), (0.7, 0.6, 0.0))),
    Correlated((LevelAgreement(0.5, 0.5, 0.1), LevelAgreement(0.9, 0.3, 0.2), LevelAgreement(1.0, 0.0, 0.6))),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_fates_are_a_distribution(model: AcceptanceModel) -> None:
    assert model.n_levels == 4
    for proposer, corrected, on_path, offset in product(range(4), (False, True), (False, True), (0, 1, 5)):
        fates = fate_probabilities(model, proposer, [offset] * 4, corrected=corrected, on_path=on_path)
        assert len(fates) == 5
        assert sum(fates) == pytest.approx(1.0, abs=1e-12)
        assert min(fates) >= 0
        assert fates[: proposer + 1] == (0.0,) * (proposer + 1)  # nobody rejects what he proposed himself


def test_fates_by_hand() -> None:
    assert fate_probabilities(MODELS[0], 0, [0] * 4, corrected=False, on_path=True) == pytest.approx(
        (0, 0.7, 0.3 * 0.2, 0, 0.3 * 0.8)
    )
    assert fate_probabilities(MODELS[1], 0, [0, 3, 9, 1], corrected=False, on_path=True) == pytest.approx(
        (0, 0.5, 0.5 * 0.8, 0.5 * 0.2 * 0.4, 0.5 * 0.2 * 0.6)
    )
    assert fate_probabilities(MODELS[2], 1, [0] * 4, corrected=True, on_path=True) == pytest.approx((0, 0, 0.7, 0, 0.3))


@pytest.mark.parametrize("bonus", Bonus)
def test_independent_levels_accept_every_token_alike(bonus: Bonus) -> None:
    found = verdicts(cascade(*HISPEC, bonus=bonus), model := Independent((0.6, 0.85)))
    origins = {1: ["drafted"], 2: ["confirmed", "corrected"] + ["bonus"] * (bonus is Bonus.ALWAYS)}
    for place in range(2):
        found.of(2, place=place).assert_share(0.85)
    for level, names in origins.items():
        for origin in names:
            # What counts as the target's path hangs on the target's own verdicts alone, not on level 1's.
            found.of(level, origin).assert_share(model.acceptance_per_token(level))
    assert found.of(2).seen == sum(found.of(2, origin).seen for origin in origins[2])


def test_per_position_acceptance_counts_places_in_the_run() -> None:
    model = PerPosition(((0.9, 0.7, 0.4), (0.95, 0.8, 0.6, 0.5)))
    found = verdicts(cascade(("D", 2, 0), ("T", 4, 4), ("T", 9, 5)), model)
    for level, places in enumerate(model.accept, start=1):
        for place, probability in enumerate(places):
            found.of(level, place=place).assert_share(probability, at_least=400)
        assert model.acceptance_per_token(level) == pytest.approx(sum(places) / len(places))
    found.of(1, place=3).assert_share(0.4, at_least=400)  # the last value holds for all later places
    found.of(2, place=5).assert_share(0.5, at_least=150)


@pytest.mark.parametrize("bonus", Bonus)
def test_correlated_levels_reproduce_the_given_conditionals(bonus: Bonus) -> None:
    found = verdicts(cascade(*HISPEC, bonus=bonus), CORRELATED)
    found.of(1, "drafted").assert_share(0.7)
    found.of(2, "confirmed").assert_share(0.95)
    found.of(2, "corrected").assert_share(0.6)
    if bonus is Bonus.ALWAYS:
        assert CORRELATED.acceptance_per_token(2) == pytest.approx(0.7 * 0.95 + 0.3 * 0.6)
        found.of(2, "bonus").assert_share(CORRELATED.acceptance_per_token(2))


def test_level_1_has_nobody_to_agree_with_but_the_draft() -> None:
    model = Correlated((LevelAgreement(0.7, 0.1, 0.2), LevelAgreement(0.95, 0.6, 0.4)))
    fates = fate_probabilities(model, 0, [0] * 3, corrected=False, on_path=True)
    assert 1 - fates[1] == pytest.approx(model.acceptance_per_token(1)) == 0.7


def test_four_correlated_levels_are_a_markov_chain() -> None:
    model = Correlated((LevelAgreement(0.6, 0.6, 0), LevelAgreement(0.9, 0.5, 0), LevelAgreement(0.95, 0.7, 0)))
    found = verdicts(cascade(("T", 1, 0), ("T", 2, 2), ("T", 4, 3), ("T", 8, 5)), model)
    found.of(2, "confirmed").assert_share(0.9)
    found.of(2, "corrected").assert_share(0.5)
    found.of(3, "confirmed").assert_share(0.95)  # whatever level 1 had said
    found.of(3, "corrected").assert_share(0.7)


def test_acceptance_per_token_of_correlated_levels_is_the_mean_over_positions() -> None:
    """With one token drafted at a time, level 1 predicts every position, so that the target judges them all."""
    found = verdicts(cascade(("T", 4, 0), ("T", 8, 1), ("T", 32, 4)), CORRELATED)
    found.of(1).assert_share(CORRELATED.acceptance_per_token(1))
    found.of(2).assert_share(CORRELATED.acceptance_per_token(2))


@dataclass(frozen=True)
class CertainOffPath:
    """The level below the target accepts all on the target's path and nothing off it, or the other way round."""

    on_path: float
    target: float = 0.7
    n_levels: int = 3
    clustering: float = 0.0

    def accept_probability(self, level: int, proposer: int, *, corrected: bool, offset: int, on_path: bool) -> float:
        if level < self.n_levels - 2:
            return 0.0  # so that all its tokens are its own
        if level == self.n_levels - 1:
            return self.target
        return self.on_path if on_path else 1 - self.on_path

    def acceptance_per_token(self, level: int) -> float:
        return (0.0, self.on_path, self.target)[level - self.n_levels]


@pytest.mark.parametrize("bonus", Bonus)
@pytest.mark.parametrize(
    "levels",
    [
        (("D", 2, 0), ("T", 4, 4), ("T", 9, 12)),  # tokens are drafted
        (("D", 2, 0), ("T", 4, 2), ("T", 6, 4), ("T", 9, 12)),  # or level 1 corrects them all
    ],
    ids=["drafted", "corrected"],
)
def test_off_path_acceptance_begins_right_behind_the_doomed_token(
    levels: tuple[tuple[str, int, int], ...], bonus: Bonus
) -> None:
    model = CertainOffPath(1.0, n_levels=len(levels))
    judge = len(levels) - 2
    log = simulate(cascade(*levels, bonus=bonus), model, [(1, 3000)], seed=3, cost=LayerCost())
    doomed_rounds = 0
    for done in rounds_of(log):
        *before, last = done.moves
        doomed = last.matched if last.matched < last.source.run else done.room  # position that the target rejects
        doomed_rounds += doomed < done.room
        for move in before:
            node = move.source
            if node.kind is Kind.VERIFY and node.level == judge:
                on_path = doomed + 1 - node.verified_from  # tokens of the run up to the doomed one, which is on it
                assert move.matched == max(0, min(node.run, on_path))
    assert doomed_rounds > 200


def test_off_path_acceptance_holds_behind_what_level_1_rejects() -> None:
    """Level 1 rejects each first token; what follows in its run is never looked at, its own token is on the path."""
    log = simulate(cascade(*HISPEC), CertainOffPath(0.0, target=1.0), [(1, 500)], seed=3, cost=LayerCost())
    for move in log.move:
        if move.source.level == 1 and move.matched >= 0:
            assert move.matched == 0
        if move.source.level == 2 and move.matched >= 0:
            assert move.matched == move.source.run


def drawn(clustering: float, seed: int, n: int = 60_000) -> np.ndarray:
    """Whether each of a series of drafted tokens was accepted: a sampler driven by hand, one token per round."""
    graph = StepGraph(cascade(("D", 2, 0), ("T", 9, 1)))
    draft = graph.start(100)
    verify = graph.follow(draft, 0).target
    assert verify is not None
    table = FateTable(Independent((0.7,), clustering=clustering))
    sampler = ModelSampler(table, np.random.default_rng(seed))
    accepted = np.empty(n)
    for i in range(n):
        sampler.draft(draft)
        accepted[i] = sampler.verify(verify)
    return accepted


@pytest.mark.parametrize("clustering", [0.0, 0.4, 0.9])
def test_clustering_leaves_shares_alone_and_sets_the_autocorrelation(clustering: float) -> None:
    accepted = drawn(clustering, seed=2)
    inflation = (1 + clustering) / (1 - clustering)  # of the variance of the mean of an AR(1)-like series
    assert abs(accepted.mean() - 0.7) < SIGMAS * sqrt(0.7 * 0.3 * inflation / len(accepted))
    autocorrelation = np.corrcoef(accepted[:-1], accepted[1:])[0, 1]
    assert abs(autocorrelation - clustering) < SIGMAS * sqrt((1 - clustering**2) * inflation / len(accepted))
    assert sqrt((1 - clustering**2) * inflation / len(accepted)) < 0.01


@pytest.mark.parametrize("clustering", [0.0, 0.5, 0.95])
def test_clustered_numbers_stay_uniform_across_blocks(clustering: float) -> None:
    n = 40_000  # ten blocks
    numbers = np.array(list(islice(Uniforms(np.random.default_rng(5), clustering).stream(), n)))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    repeats = (numbers[1:] == numbers[:-1]).mean()
    assert abs(repeats - clustering) < SIGMAS * sqrt(clustering * (1 - clustering) / n) + 1e-12
    fresh = np.unique(numbers)
    ecdf_distance = np.abs(np.arange(1, len(fresh) + 1) / len(fresh) - fresh).max()
    assert ecdf_distance < 1.95 / sqrt(len(fresh))  # Kolmogorov-Smirnov at 0.1 %


def test_numbers_repeat_from_one_block_to_the_next() -> None:
    ends = []
    for seed in range(200):
        numbers = list(islice(Uniforms(np.random.default_rng(seed), 0.8).stream(), 4096 + 1))
        ends.append(numbers[4095] == numbers[4096])
    assert abs(np.mean(ends) - 0.8) < SIGMAS * sqrt(0.8 * 0.2 / len(ends))


NAN = float("nan")


@pytest.mark.parametrize("wrong", [-0.1, 1.1, NAN])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    assert isnan(wrong) or not 0 <= wrong <= 1
    with pytest.raises(InputError, match="between 0 and 1"):
        Independent((0.5, wrong))
    with pytest.raises(InputError, match="between 0 and 1"):
        PerPosition(((0.5,), (0.5, wrong)))
    for place in range(3):
        values = [0.5] * 3
        values[place] = wrong
        with pytest.raises(InputError, match="between 0 and 1"):
            LevelAgreement(*values)


@pytest.mark.parametrize("wrong", [-0.1, 1.0, NAN])
def test_impossible_clustering_is_refused(wrong: float) -> None:
    for make in (
        lambda: Independent((0.5,), clustering=wrong),
        lambda: PerPosition(((0.5,),), clustering=wrong),
        lambda: Correlated((LevelAgreement(0.5, 0.5, 0.5),), clustering=wrong),
    ):
        with pytest.raises(InputError, match="clustering"):
            make()


def test_acceptance_without_any_place_is_refused() -> None:
    with pytest.raises(InputError, match="level 2 is empty"):
        PerPosition(((0.5,), ()))
