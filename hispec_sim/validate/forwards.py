"""Which forwards the profile prices wrong: those of the real runs, each at its price, against what they took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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


def forwards_table(runs: Iterable[dict[Shape, Times]]) -> pd.DataFrame:
    """A row per shape, over all runs: mean times, `error` = simulated / real - 1, `time_share` of all real time, and
    `error_share`, which adds up to the error of all time; the largest of these first."""
    summed: dict[Shape, Times] = defaultdict(Times)
    for run in runs:
        for shape, times in run.items():
            total = summed[shape]
            total.forwards += times.forwards
            total.real_ms += times.real_ms
            total.simulated_ms += times.simulated_ms
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
