"""Which configurations a validation decodes: each entry of the design spans the product of its lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.errors import InputError

NETWORK = "target"
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Configuration:
    """One cascade over exits of the target, and how it decodes: `batch` sequences side by side."""

    exits: tuple[int, ...]
    draft_length: int
    verify_periods: tuple[int, ...]
    bonus: Bonus
    batch: int
    max_new_tokens: int

    @property
    def name(self) -> str:
        """Such as `ex1-8_nd2_ni6_always_b4_t64`: a file name too."""
        cascade = "ar"
        if self.exits:
            periods = "".join(f"_ni{period}" for period in self.verify_periods)
            layers = "-".join(map(str, self.exits))
            cascade = f"ex{layers}_nd{self.draft_length}{periods}_{self.bonus}"
        return f"{cascade}_b{self.batch}_t{self.max_new_tokens}"

    def parts(self, block_sizes: Sequence[int]) -> list[list[range]]:
        """Which prompts are decoded in one go, block by block: each by itself where sequences are decoded one at a
        time, so that a prompt of another configuration may come in between; else all of a block."""
        blocks = [range(end - size, end) for size, end in zip(block_sizes, accumulate(block_sizes), strict=True)]
        return [[range(k, k + 1) for k in block] if self.batch == 1 else [block] for block in blocks]

    def cascade(self, n_layers: int) -> Cascade:
        """The cascade of a network of so many layers. Raises InputError where an exit is not below them."""
        deep = [exit_layer for exit_layer in self.exits if exit_layer >= n_layers]
        if deep:
            raise InputError(f"configuration {self.name}: exit {deep[0]} must be below the target's {n_layers} layers")
        periods = (0, self.draft_length, *self.verify_periods) if self.exits else (0,)
        depths = (*self.exits, n_layers)
        return Cascade(tuple(Level(NETWORK, e, n) for e, n in zip(depths, periods, strict=True)), self.bonus)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Entry(_Strict):
    """Configurations of one number of levels: every combination of what the lists hold."""

    exits: list[list[Count]] = [[]]
    """Exit layers below the target, shallow to deep; [] is autoregressive decoding."""
    draft_length: Annotated[list[Count], Field(min_length=1)] = [1]
    """Nd."""
    verify_period: Annotated[list[list[Count]], Field(min_length=1)] = [[]]
    """Ni: a list with one number for each level above the first verifier."""
    bonus: Annotated[list[Bonus], Field(min_length=1)] = [Bonus.ON_MISMATCH]
    batch: Annotated[list[Count], Field(min_length=1)] = [1]
    """Sequences side by side."""
    max_new_tokens: Annotated[list[Count], Field(min_length=1)] = [64]


class Design(_Strict):
    """A validation's configurations and how thoroughly they are decoded."""

    prompts: Count
    """How many prompts each configuration decodes."""
    blocks: Count = 1
    """How many blocks the prompts are decoded in, one after another. All configurations decode one block before any
    decodes the next, so that a slow minute of the machine meets a part of each (a randomised block design)."""
    paired: bool = False
    """Whether each request replays the recording of its own prompt (a check of the replay), in place of recordings of
    other prompts (a validation of the prediction)."""
    configurations: Annotated[list[Entry], Field(min_length=1)]

    def block_sizes(self) -> list[int]:
        """Prompts of each block, as equal as can be."""
        return [(self.prompts + k) // self.blocks for k in range(self.blocks)]

    def expand(self) -> list[Configuration]:
        """All configurations, each once. Raises InputError for an entry whose lists do not fit together."""
        found: dict[Configuration, None] = {}
        for number, e in enumerate(self.configurations, 1):
            axes = (e.exits, e.draft_length, e.verify_period, e.bonus, e.batch, e.max_new_tokens)
            for exits, draft_length, periods, bonus, batch, tokens in product(*axes):
                if len(periods) != max(0, len(exits) - 1):
                    raise InputError(
                        f"configurations, entry {number}: exits {exits} take {max(0, len(exits) - 1)} verify periods, "
                        f"verify_period gives {periods}"
                    )
                if batch > self.prompts // self.blocks:
                    raise InputError(
                        f"configurations, entry {number}: batch {batch} needs as many prompts in each block, "
                        f"{self.prompts} prompts in {self.blocks} blocks are {self.prompts // self.blocks}"
                    )
                found[Configuration(tuple(exits), draft_length, tuple(periods), bonus, batch, tokens)] = None
        return list(found)


def load_design(path: Path, prompts: int | None = None) -> Design:
    """Read a design file; `prompts` replaces its number, in blocks of about the design's size. Raises InputError that
    names the file and the key."""
    try:
        design = Design.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        if prompts is None:
            return design
        blocks = max(1, design.blocks * prompts // design.prompts)
        return design.model_copy(update={"prompts": prompts, "blocks": blocks})
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"design {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"design {path} is not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(f"design {path}, {where}: {first['msg']} (got {first['input']!r:.80})") from None
