"""Where the error comes from, by substitution: real outcomes with simulated time, simulated outcomes with real time,
and both real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from hispec_sim.simulate.pricing import Asking, Pricer
from hispec_sim.step_graph import Node
from hispec_sim.validate.design import NETWORK, Configuration
from hispec_sim.validate.observation import Observation, Shape
from hispec_sim.validate.prediction import Predictor


@dataclass(frozen=True, slots=True)
class Budget:
    """Relative errors of one configuration's tokens_per_s when all but one part is real.

    `latency`: the outcomes of the run itself, time from the profile. `acceptance`: outcomes from the trace, every
    forward at the run's own mean time. `control`: both of the run itself; what is left is control and batching.
    `machine`: outcomes of the run, every forward at its price times what forwards of its shape took in the runs of the
    other configurations over their prices: how unsteady the machine was, which no profile can foretell. `host`: the
    share of the run's time between forwards, which the profile has to account for.
    """

    latency: float
    acceptance: float
    control: float
    machine: float
    host: float


class Recorded:
    """A sampler that answers with the outcomes of a real run."""

    def __init__(self, verified: Sequence[tuple[int, int, int]]) -> None:
        self._verified: Iterator[tuple[int, int, int]] = iter(verified)

    def draft(self, node: Node) -> None:
        """Which token was drafted decides nothing here."""

    def verify(self, node: Node) -> int:
        level, run, matched = next(self._verified)
        assert (level, run) == (node.level, node.run), "the executor and the simulator have one control logic"
        return matched


def shape_of(batch: Sequence[Asking]) -> Shape:
    """What the executor tells this batch's forward apart by."""
    forward = batch[0].node.forward
    tokens = sum(request.node.forward.tokens for request in batch)
    logits = sum(request.node.forward.logits for request in batch)
    return Shape(NETWORK, forward.first_layer, forward.last_layer, len(batch), tokens, logits)


class MeasuredPricer(Pricer):
    """Every forward at the mean time that forwards of its shape took in a run, with the gap behind them.

    A shape that the run did not have takes its price in the profile times how much longer forwards of the run took than
    the profile says.
    """

    def __init__(self, observation: Observation, fallback: Pricer, scale: float) -> None:
        self._fallback, self._scale = fallback, scale
        self._mean_ms = {shape: total / times for shape, (times, total) in observation.times.items()}

    def price_ms(self, batch: Sequence[Asking]) -> float:
        known = self._mean_ms.get(shape_of(batch))
        return known if known is not None else self._scale * self._fallback.price_ms(batch)


def budget(predictor: Predictor, configuration: Configuration, observation: Observation, machine: float) -> Budget:
    """The substitutions for one real run; `machine` is what the runs of the other configurations say of it."""
    profile, requests = predictor.pricer(configuration), len(observation.verified)

    def recorded(request: int) -> Recorded:
        return Recorded(observation.verified[request])

    real = observation.figures.tokens_per_s

    def rate(samplers, pricer: Pricer, jitter: Iterator[float] | None = None) -> float:  # type: ignore[no-untyped-def]
        logs = predictor.run(configuration, samplers, pricer, jitter, requests)
        return 1000 * observation.tokens / sum(ms for log in logs for ms in log.duration_ms)

    real_outcomes = rate(recorded, profile, predictor.jitter(0))
    measured = MeasuredPricer(observation, profile, real_outcomes / real)
    replayed = [rate(samplers, measured) for samplers in predictor.even_samplers(configuration, requests)]
    return Budget(
        latency=real_outcomes / real - 1,
        acceptance=fmean(replayed) / real - 1,
        control=rate(recorded, measured) / real - 1,
        machine=machine,
        host=1 - observation.forward_ms / observation.decode_ms,
    )
