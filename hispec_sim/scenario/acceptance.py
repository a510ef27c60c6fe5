"""Parametric acceptance from a checked scenario. Errors point into the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hispec_sim.acceptance.chain import chain
from hispec_sim.acceptance.exit_curve import known_exit_curves
from hispec_sim.acceptance.models import AcceptanceModel, Correlated, Independent, LevelAgreement, PerPosition
from hispec_sim.cascade import Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.scenario.schema import AgreementSpec, ChainSpec, CorrelatedSpec, IndependentSpec, PerPositionSpec
from hispec_sim.scenario.yaml_source import Key, did_you_mean


def build_model(
    loaded: LoadedScenario,
    spec: IndependentSpec | PerPositionSpec | CorrelatedSpec | ChainSpec,
    cascade: Cascade,
    n_layers: Mapping[str, int],
    place: Key,
) -> AcceptanceModel:
    """The model that stands at `place`; `n_layers` by network. Raises InputError."""
    if isinstance(spec, ChainSpec):
        shares = [_target_accepts(loaded, level, n_layers, place) for level in cascade.levels[:-1]]
        try:
            return replace(chain(shares, spec.differed_over_agreed), clustering=spec.clustering)
        except InputError as error:
            raise loaded.fail(place, str(error)) from None
    given = spec.levels if isinstance(spec, CorrelatedSpec) else spec.accept
    if len(given) != cascade.target:
        raise loaded.fail(
            (*place, "levels" if isinstance(spec, CorrelatedSpec) else "accept"),
            f"give one entry per verifying level: {cascade.target}, not {len(given)}",
        )
    if isinstance(spec, IndependentSpec):
        return Independent(tuple(spec.accept), spec.clustering)
    if isinstance(spec, PerPositionSpec):
        return PerPosition(tuple(map(tuple, spec.accept)), spec.clustering)
    return Correlated(
        tuple(
            _agreement(loaded, level, k, k == cascade.target, (*place, "levels", k - 1))
            for k, level in enumerate(spec.levels, start=1)
        ),
        spec.clustering,
    )


def _agreement(loaded: LoadedScenario, spec: AgreementSpec, k: int, is_target: bool, place: Key) -> LevelAgreement:
    conditional = (spec.accept_if_agreed, spec.accept_if_differed)
    if k == 1:
        if spec.accept is None or conditional != (None, None):
            raise loaded.fail(place, "level 1 verifies drafted tokens: give `accept` and no accept_if_...")
        agreed = differed = spec.accept
    else:
        if spec.accept is not None or spec.accept_if_agreed is None or spec.accept_if_differed is None:
            raise loaded.fail(place, f"level {k} needs `accept_if_agreed` and `accept_if_differed`, and no `accept`")
        agreed, differed = spec.accept_if_agreed, spec.accept_if_differed
    if spec.off_path is None and not is_target:
        raise loaded.fail(place, f"level {k} needs `off_path`, its acceptance behind a token that will be rejected")
    return LevelAgreement(agreed, differed, 1.0 if spec.off_path is None else spec.off_path)


def _target_accepts(loaded: LoadedScenario, level: Level, n_layers: Mapping[str, int], place: Key) -> float:
    """P(the target predicts what `level` predicts): its exit's agreement with its network, times its network's."""
    network, key = loaded.scenario.networks[level.network], ("networks", level.network)
    share = 1.0 if network.target_accepts is None else network.target_accepts
    depth = n_layers[level.network]
    if level.exit_layer == depth:
        if network.target_accepts is None:
            raise loaded.fail(
                key,
                f"acceptance `chain` needs `target_accepts`, how often the target predicts what "
                f"{level.network} predicts",
            )
        return share
    if network.exit_curve is None:
        raise loaded.fail(key, f"acceptance `chain` needs `exit_curve` to know what exit {level.exit_layer} is worth")
    curve = network.exit_curve
    anchors = tuple((anchor.exit_layer, anchor.accept) for anchor in curve.through)
    try:
        return share * float(_by_layer(curve.shape, depth, anchors)[level.exit_layer])
    except InputError as error:
        raise loaded.fail((*key, "exit_curve"), str(error)) from None


@cache
def _by_layer(shape: str, n_layers: int, anchors: tuple[tuple[int, float], ...]) -> NDArray[np.float64]:
    curves = known_exit_curves()
    if shape not in curves:
        raise InputError(f"there is no known exit curve {shape!r}{did_you_mean(shape, curves)}")
    return curves[shape].through(n_layers, dict(anchors))
