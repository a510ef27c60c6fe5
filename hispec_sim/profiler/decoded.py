"""The record of a decode, priced forward by forward as the simulator would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hispec_sim.cascade import Cascade, Level
from hispec_sim.errors import InputError
from hispec_sim.execute.record import DeviceForward, Record
from hispec_sim.latency.cost import NetworkCost


def decode_ms(record: Record, cascade: Cascade, costs: Mapping[str, NetworkCost]) -> float:
    """What the forwards of a decode should take together with the time between them. The prompt's prefill and the first
    round, in which exit heads catch up on the prompt, are left out."""
    target, first = cascade.levels[-1], first_checked(record, cascade)
    predicted_ms = 0.0
    for index, forward in enumerate(record.device[first:], first):
        predicted_ms += float(
            costs[forward.network].forward_ms(
                first_layer=forward.first_layer,
                last_layer=forward.last_layer,
                batch=forward.batch,
                tokens=forward.batch * forward.longest,
                logits=forward.logits,
                context=forward.reach,
                shortlist=forward.shortlist,
                in_row=in_row(record.device[:index], forward, target),
            )
        )
    return predicted_ms


def first_checked(record: Record, cascade: Cascade) -> int:
    """The first forward behind the first round."""
    ends = [index for index, forward in enumerate(record.device) if _reaches(forward, cascade.levels[-1])]
    first = ends[min(1, len(ends) - 1)] + 1
    if first >= len(record.device):
        raise InputError("the decode is too short to be checked; give longer prompts or more new tokens")
    return first


def in_row(before: Sequence[DeviceForward], forward: DeviceForward, target: Level) -> int | None:
    """What the forwards of the device say of `step_graph.Node.in_row`, where all levels below the target are exits of
    one network: as much or, for levels that verify, more, for here their runs can be counted."""
    if _reaches(forward, target) or (forward.first_layer and not forward.logits):
        return None
    place = 1
    for earlier in reversed(before):
        if earlier.network != forward.network or _reaches(earlier, target):
            break
        if earlier.logits and earlier.last_layer > forward.last_layer:
            return place + 1
        place += earlier.logits > 0 and earlier.last_layer == forward.last_layer
    return place


def _reaches(forward: DeviceForward, target: Level) -> bool:
    return (forward.network, forward.last_layer) == (target.network, target.exit_layer)
