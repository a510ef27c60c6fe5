"""Which forwards the profile prices wrong: those of the real runs, each at its price, against what they took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import pandas as pd

from hispec_sim.simulate.jitter import mean_factor
from hispec_sim.simulate.pricing import Asking, Pricer
from hispec_sim.validate.budget import Recorded, shape_of
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.observation import Observation, Shape
from hispec_sim.validate.prediction import Predictor


@dataclass(slots=True)
class Times:
    """Forwards of one shape: how many, and the milliseconds in all, in reality (gap behind each included) and
    simulated."""

    forwards: int = 0
    real_ms: float = 0.0
    simulated_ms: float = 0.0


@dataclass(slots=True)
class TellingPricer(Pricer):
    """The prices of another pricer, and what they come to by shape."""

    pricer: Pricer
    total_ms: dict[Shape, float] = field(default_factory=lambda: defaultdict(float))

    def price_ms(self, batch: Sequence[Asking]) -> float:
        ms = self.pricer.price_ms(batch)
        self.total_ms[shape_of(batch)] += ms
        return ms


def times_of(predictor: Predictor, configuration: Configuration, observation: Observation) -> dict[Shape, Times]:
    """The forwards of a real run: the simulator replays its outcomes, and so asks for the same ones."""
    pricer = TellingPricer(predictor.pricer(configuration))
    predictor.run(
        configuration, lambda request: Recorded(observation.verified[request]), pricer, None, len(observation.verified)
    )
    late = mean_factor(predictor.cost.profile.spread())
    return {
        shape: Times(times, ms, late * pricer.total_ms.get(shape, 0.0))
        for shape, (times, ms) in observation.times.items()
    }


def summed_times(runs: Iterable[Mapping[Shape, Times]]) -> dict[Shape, Times]:
    """The forwards of all of them together."""
    summed: dict[Shape, Times] = defaultdict(Times)
    for run in runs:
        for shape, times in run.items():
            total = summed[shape]
            total.forwards += times.forwards
            total.real_ms += times.real_ms
            total.simulated_ms += times.simulated_ms
    return dict(summed)


def machine_error(own: Mapping[Shape, Times], everyone: Mapping[Shape, Times]) -> float:
    """How far the rate of a run is off when its forwards take their price times what their like took in the other runs
    over the price there; `everyone` has this one too. The prices make up for other contexts and other places in a row
    of drafts. Forwards that only this run had tell nothing and are left out; NaN if there are no others."""
    real_ms = elsewhere_ms = 0.0
    for shape, mine in own.items():
        like = everyone[shape]
        if like.forwards > mine.forwards:
            slower = (like.real_ms - mine.real_ms) / (like.simulated_ms - mine.simulated_ms)
            real_ms += mine.real_ms
            elsewhere_ms += mine.simulated_ms * slower
    return real_ms / elsewhere_ms - 1 if elsewhere_ms else nan


def forwards_table(summed: Mapping[Shape, Times]) -> pd.DataFrame:
    """A row per shape: mean times, `error` = simulated / real - 1, `time_share` of all real time, and
    `error_share`, which adds up to the error of all time; the largest of these first."""
    all_ms = sum(total.real_ms for total in summed.values())
    rows = [
        {
            **{name: value for name, value in shape._asdict().items() if name != "network"},
            "forwards": total.forwards,
            "real_ms": total.real_ms / total.forwards,
            "simulated_ms": total.simulated_ms / total.forwards,
            "error": total.simulated_ms / total.real_ms - 1,
            "time_share": total.real_ms / all_ms,
            "error_share": (total.simulated_ms - total.real_ms) / all_ms,
        }
        for shape, total in summed.items()
    ]
    table = pd.DataFrame(rows)
    return table.reindex(table["error_share"].abs().sort_values(ascending=False, kind="stable").index)
