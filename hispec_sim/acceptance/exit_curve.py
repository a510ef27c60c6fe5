"""How often the target predicts what one of its exit layers predicts, as a function of depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import yaml
from numpy.typing import NDArray

from hispec_sim.errors import InputError


@dataclass(frozen=True, slots=True)
class ExitCurve:
    """The agreement that was published for the first exits of one network; `source` says where and how it was read.

    `accept[i]` belongs to exit layer i + 1 of `n_layers`. Between depth 0, where nothing is known, and these, and
    from the last of them to the whole network, which agrees with itself, the curve is a straight line in depth.
    """

    n_layers: int
    accept: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        if not 0 < len(self.accept) < self.n_layers:
            raise InputError(
                f"an exit curve holds 1 to n_layers - 1 ({self.n_layers - 1}) exits, not {len(self.accept)}"
            )
        if any(low > high for low, high in zip((0.0, *self.accept), (*self.accept, 1.0), strict=True)):
            raise InputError("an exit curve must rise with depth, from 0 to at most 1")

    def at(self, depth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Agreement at each share of the depth, 0 to 1."""
        known = np.arange(1, len(self.accept) + 1) / self.n_layers
        return np.interp(depth, (0.0, *known, 1.0), (0.0, *self.accept, 1.0))

    def through(self, n_layers: int, anchors: Mapping[int, float]) -> NDArray[np.float64]:
        """Agreement by exit layer, 0 to `n_layers`, of another network, known at `anchors` (exit layer -> share).

        The odds of the curve are multiplied by what makes them meet the anchors; between two anchors the logarithm
        of that factor is a straight line in depth, outside it is held. Kept from falling where the anchors are
        flatter than the curve. Raises InputError for an anchor that is no inner layer, or not above 0 and below 1,
        or where anchors fall with depth.
        """
        layers = sorted(anchors)
        shares = np.array([anchors[layer] for layer in layers])
        if not layers or layers[0] < 1 or layers[-1] >= n_layers:
            raise InputError(
                f"an exit curve goes through one or more exit layers from 1 to {n_layers - 1}, not {layers}"
            )
        if not ((shares > 0) & (shares < 1)).all() or (np.diff(shares) < 0).any():
            raise InputError(f"agreement at exit layers {layers} must rise, above 0 and below 1: {shares.tolist()}")
        depth = np.arange(n_layers + 1) / n_layers
        curve = self.at(depth)
        odds = curve[layers] / (1 - curve[layers])
        factor = np.exp(np.interp(depth, depth[layers], np.log(shares / (1 - shares) / odds)))
        return np.maximum.accumulate(curve * factor / (1 - curve + curve * factor))


@cache
def known_exit_curves() -> dict[str, ExitCurve]:
    """Curves that ship with the product, by the network they were published for (`data/exit_curves.yaml`)."""
    text = files("hispec_sim").joinpath("data/exit_curves.yaml").read_text(encoding="utf-8")
    return {
        name: ExitCurve(entry["n_layers"], tuple(entry["accept"]), entry["source"])
        for name, entry in yaml.safe_load(text).items()
    }
