"""A sweep file and its base as they were checked, in a form that reads back to the same sweep anywhere."""

from __future__ import annotations

from typing import Any

import yaml

from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.schema import RangeSpec


def texts_of(sweep: Sweep) -> dict[str, str]:
    """`sweep.yaml` and `base.yaml`: overrides applied, the base resolved, paths absolute."""
    spec = sweep.spec
    own: dict[str, Any] = {
        "name": spec.name,
        "description": spec.description,
        "base": "base.yaml",
        "axes": {
            axis.name: given.model_dump(by_alias=True)
            if isinstance(given := spec.axes[axis.name], RangeSpec)
            else list(axis.values)
            for axis in sweep.axes
        },
        "constraints": spec.constraints,
        "verify": spec.verify.model_dump(),
    }
    return {"sweep.yaml": _dump(own), "base.yaml": _dump({"name": spec.name, **sweep.source.data})}


def _dump(data: Any) -> str:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True  # the reader takes none

    return yaml.dump(data, Dumper=Plain, sort_keys=False, allow_unicode=True, width=120)
