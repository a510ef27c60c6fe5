"""HiSpec Figure 5b: Llama-2-70B on CNN/DM, how the choice of draft and intermediate exit orders the speedups."""

from __future__ import annotations

from functools import partial
from itertools import product

from hispec_sim.cascade import Bonus
from hispec_sim.published.bench import HOSTS, Bench, cascade_of, eager_host
from hispec_sim.published.check import Check, Group
from hispec_sim.published.conversion import chain_model
from hispec_sim.published.data import published_table
from hispec_sim.published.shares import ACCEPTANCES, acceptance_of
from hispec_sim.study.fidelity import kendall_tau

NETWORK = "llama-2-70b"
DRAFT_LENGTH, VERIFY_PERIOD = 2, 4
CORRELATIONS = {"independent": 1.0, "correlated": 0.77 / 0.97}
TOLERANCE = 0.15
_EXPLANATION = (
    "Acceptance on CNN/DM is scaled from ShareGPT: as matched_per_drafted it puts the target's acceptance of layer 20 "
    "at 0.95, as a probability at 0.85. Deeper exits are interpolated, and host time per forward lowers what they gain."
)


def exit_order() -> Group:
    """Figure 5b over bonus rule, meaning of acceptance, correlation of levels and host overhead."""
    readings = {
        f"{acceptance}, {bonus}, {correlation}, {host}": partial(
            _checks, acceptance=acceptance, bonus=bonus, correlation=correlation, host=host
        )
        for acceptance, bonus, correlation, host in product(ACCEPTANCES, Bonus, CORRELATIONS, HOSTS)
    }
    return Group(
        "fig5b",
        "HiSpec Figure 5b: Llama-2-70B on CNN/DM, (draft exit, intermediate exit)",
        f"the order exactly; speedups {TOLERANCE:.0%}: acceptance at the deeper exits is not published",
        "where acceptance comes from; bonus rule; independent levels, or the target accepts what the intermediate "
        "corrected 0.77/0.97 as often as what it confirmed; host overhead (the 10 % is calibrated on LayerSkip's "
        "speedups)",
        f"{ACCEPTANCES[0]}, {Bonus.ALWAYS}, independent, {HOSTS[0]}",
        readings,
    )


def agreement_at(depth: int, draft: float, intermediate: float) -> float:
    """P(exit `depth` of 80 predicts the target's token): given at 10 and 20, a straight line to 1 from 20 to 80."""
    return draft if depth == 10 else intermediate + (1 - intermediate) * (depth - 20) / 60


def _checks(bench: Bench, acceptance: str, bonus: Bonus, correlation: str, host: str) -> tuple[Check, ...]:
    table = published_table("hispec_fig5b")
    costs = {NETWORK: bench.cost(NETWORK, 0, eager_host(bench, host))}
    n_layers = bench.n_layers(NETWORK)
    at_10, at_20 = acceptance_of(NETWORK, "cnn_dm", acceptance, DRAFT_LENGTH, VERIFY_PERIOD, bonus)
    baseline = bench.autoregressive(NETWORK, costs).tokens_per_s
    assumption = f"target accepts {at_10:.2f} of layer 10, {at_20:.2f} of 20, interpolated linearly to 1 at 80"
    published, ours, names = [], [], []
    for row in table.rows:
        draft, intermediate = int(row["draft_exit"]), int(row["intermediate_exit"])
        model = chain_model(
            agreement_at(draft, at_10, at_20), agreement_at(intermediate, at_10, at_20), CORRELATIONS[correlation]
        )
        levels = ((NETWORK, draft, 0), (NETWORK, intermediate, DRAFT_LENGTH), (NETWORK, n_layers, VERIFY_PERIOD))
        ours.append(bench.run(cascade_of(*levels, bonus=bonus), model, costs).tokens_per_s / baseline)
        published.append(float(row["speedup"]))
        names.append(f"speedup, ({draft}, {intermediate})")
    tau = kendall_tau(published, ours)
    return (
        Check("order: Kendall tau", table.source, 1.0, tau, 0.01, assumption, _EXPLANATION, absolute=True),
        *(
            Check(name, table.source, theirs, simulated, TOLERANCE, assumption, _EXPLANATION)
            for name, theirs, simulated in zip(names, published, ours, strict=True)
        ),
    )
