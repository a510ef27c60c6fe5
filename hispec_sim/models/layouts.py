"""Weights laid out for fast decoding on the CPU at hand.

torch's product of a few tokens with a matrix reads it in an order made for many tokens. Laid out otherwise the same
product takes half the time on some processors and for some shapes, and twice the time on others. So each shape is
tried, from memory as in decoding, the first time that it is met on a machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from hispec_sim.models.files.weights import SMALLER
from hispec_sim.models.found_layouts import found_before, remember
from hispec_sim.models.linear import Layout, laid_out
from hispec_sim.models.llama import Llama, dtype_of
from hispec_sim.models.memory import enough_memory, give_back

TRANSPOSED_WEIGHTS = 1 << 13
"""Matrices of at least so many weights may be transposed, in one or in blocks: below, there is nothing to gain."""

PACKED_WEIGHTS = 1 << 17
"""Matrices of at least so many weights may be packed: a packed product costs 10 to 15 microseconds more to start, which
for smaller ones is more than it saves (measured on one thread: 128 x 512 is slower packed at 1 to 16 tokens)."""

WIDENED_WEIGHTS = 1 << 19
"""And these may also multiply one or two tokens as four. On some processors a packed product of one or two takes longer
than one of three to six: what it multiplies at once is too little to keep the memory busy."""

TRIED_TOKENS = (1, 4, 12)
"""A draft, and verifications of a few tokens and of many."""
TRIED_WEIGHTS, TRIED_AT_ONCE = 1 << 21, 8
"""Of one shape the matrices of several layers are tried: about so many weights, and at most so many matrices; of a
larger one as many rows, for copies of a whole LM head would take more memory than decoding."""
TRIALS, FEWEST_TRIALS, TRY_S = 5, 2, 0.15
"""A layout is tried so often, less often where that takes longer than this, and the least time counts: others may use
the processor too."""
WORTH = 0.95
"""A layout must take at most this share of the time of the best simpler one."""
FORGOTTEN_BYTES = 1 << 23
"""Reading so much between two trials leaves nothing of a matrix in a core's own caches, as a pass through other layers
does."""


@torch.no_grad()
def lay_out_for_cpu(network: Llama) -> Llama:
    """The same network, its matrices laid out anew in place where that is faster: on a CPU, in fp32.

    What is laid out anew replaces the plain matrix, so memory stays the same; only a head tied to the embedding becomes
    a matrix of its own. Logits change in the last digits. Such a network can neither be trained nor saved. Raises
    InputError if memory runs out.
    """
    if network.embedding.weight.device.type != "cpu" or dtype_of(network) != torch.float32:
        return network
    places = [  # and not the matrices themselves, which would all stay until the last is laid out
        (module, name) for module in network.modules() for name, child in module.named_children() if is_tried(child)
    ]
    largest = max((getattr(module, name).weight.nbytes for module, name in places), default=0)
    what = f"matrices of network {network.config.shape.name}, laid out anew, the largest"
    with enough_memory(lambda: (what, largest), SMALLER):
        fastest = _fastest_layouts(getattr(module, name).weight for module, name in places)
        for module, name in places:
            layout = fastest[getattr(module, name).weight.shape]
            if layout is not Layout.PLAIN:
                setattr(module, name, laid_out(getattr(module, name).weight, layout))
                give_back()
    return network


def _fastest_layouts(weights: Iterable[Tensor]) -> dict[torch.Size, Layout]:
    """The layout for each shape of matrix: as found before, or else by trial."""
    of_shape: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        of_shape.setdefault(weight.shape, []).append(weight)
    known = {shape: layout for shape, layout in found_before().items() if layout in _layouts(shape.numel())}
    found = {}
    for shape, each in of_shape.items():
        if shape not in known:
            found[shape] = fastest_layout(each)
            give_back()
    if found:
        remember(found)
    return known | found


def fastest_layout(weights: Sequence[Tensor]) -> Layout:
    """The layout for matrices (out, in) of one shape, of several layers."""
    return best_layout(least_seconds(weights))


def best_layout(least_s: Mapping[Layout, Sequence[float]]) -> Layout:
    """The layout that takes least for one token, a few and many, all counting the same. One that takes nearly as long
    as a simpler one, which stands before it, is not chosen."""
    best, best_relative = Layout.PLAIN, float(len(TRIED_TOKENS))
    for layout, seconds in least_s.items():
        relative = sum(mine / its for mine, its in zip(seconds, least_s[Layout.PLAIN], strict=True))
        if relative <= WORTH * best_relative:
            best, best_relative = layout, relative
    return best


def least_seconds(weights: Sequence[Tensor]) -> dict[Layout, list[float]]:
    """For each layout, the simplest first, the least seconds that a product with one of these matrices takes, by
    `TRIED_TOKENS`."""
    size, features = weights[0].numel(), weights[0].shape[1]
    rows = -(-TRIED_WEIGHTS // features)
    some = [weight[:rows] for weight in weights[: min(TRIED_AT_ONCE, -(-TRIED_WEIGHTS // size))]]
    products = {layout: [laid_out(weight, layout) for weight in some] for layout in _layouts(size)}
    tokens = [torch.ones(1, n, features) for n in TRIED_TOKENS]
    others = torch.zeros(FORGOTTEN_BYTES // tokens[0].element_size())
    least_s = {layout: [float("inf")] * len(tokens) for layout in products}
    started_s = time.perf_counter()
    for trial in range(TRIALS):
        if trial >= FEWEST_TRIALS and time.perf_counter() - started_s > TRY_S:
            break
        for layout, each in products.items():
            for place, x in enumerate(tokens):
                others.add_(1)
                began_s = time.perf_counter()
                for product in each:
                    product(x)
                taken_s = (time.perf_counter() - began_s) / len(each)
                least_s[layout][place] = min(least_s[layout][place], taken_s)
    return least_s


def _layouts(size: int) -> list[Layout]:
    """Those that may be faster for a matrix of so many weights, the simplest first."""
    packs = _can_pack()
    least = {Layout.PLAIN: 0, Layout.TRANSPOSED: TRANSPOSED_WEIGHTS, Layout.BLOCKED: TRANSPOSED_WEIGHTS} | (
        {Layout.PACKED: PACKED_WEIGHTS, Layout.WIDENED: WIDENED_WEIGHTS} if packs else {}
    )
    return [layout for layout, weights in least.items() if size >= weights]


def is_tried(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a linear map whose matrix may be laid out anew."""
    return isinstance(module, nn.Linear) and module.bias is None and module.weight.numel() >= TRANSPOSED_WEIGHTS


def _can_pack() -> bool:
    """Whether this torch has oneDNN and the two operations, which are not part of its public interface."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        probe = laid_out(torch.eye(16), Layout.PACKED)
        return bool(torch.equal(probe(torch.ones(2, 16)), torch.ones(2, 16)))
    except (AttributeError, RuntimeError, TypeError):
        return False
