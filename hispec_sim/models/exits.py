"""Exit heads: trained read-outs of exits.

An exit is read out by the network's own final norm and LM head. At an exit layer of a network that never learned to
exit, these two make little of the hidden states; an exit head translates the states first, or brings a norm and an LM
head of its own. The network itself stays as it is, so whatever the heads predict, the target's text does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import cast

from torch import Tensor, nn

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.llama import Attend, Layer, Llama, NormOf, bare, dtype_of

HeadMaths = Callable[[Tensor, Tensor, Attend], Tensor]
"""What a head computes, as `ExitHead.forward`."""


class Kind(StrEnum):
    """What stands between hidden states at an exit and their logits."""

    ADAPTER = "adapter"  # x + W norm(x)
    BLOCK = "block"  # one transformer layer, with keys and values of its own
    LM_HEAD = "lm_head"  # a norm and an LM head of its own in place of the network's


class ExitHead(nn.Module):
    """Turns hidden states at an exit layer into what the network's final norm and LM head can read, or brings these."""

    kind: Kind

    @property
    def reads_by(self) -> tuple[nn.RMSNorm, nn.Linear] | None:
        """A norm and an LM head of its own, if it has them."""
        return None

    def forward(self, x: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """x: (batch, tokens, hidden_size), for an adapter (..., hidden_size); turn: rotations of the tokens' positions;
        attend: over this head's own keys and values."""
        return self.maths()(x, turn, attend)

    def maths(self, norm_of: NormOf | None = None) -> HeadMaths:
        """As `Layer.maths`."""
        raise NotImplementedError


class AdapterHead(ExitHead):
    """A normalised linear map, added to the hidden state. Starts as no change at all."""

    kind = Kind.ADAPTER

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        size = config.shape.hidden_size
        self.norm = nn.RMSNorm(size, eps=config.norm_eps)
        self.linear = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.linear.weight)

    def maths(self, norm_of: NormOf | None = None) -> HeadMaths:
        norm, linear = (norm_of or bare)(self.norm), bare(self.linear)
        return lambda x, turn, attend: x + linear(norm(x))


class BlockHead(ExitHead):
    """One transformer layer of the network's own shape."""

    kind = Kind.BLOCK

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.layer = Layer(config)

    def maths(self, norm_of: NormOf | None = None) -> HeadMaths:
        return self.layer.maths(norm_of)


class LmHead(ExitHead):
    """A norm and an LM head of its own; hidden states stay as they are. Starts as a copy of the network's. It takes
    the memory of another LM head, but decoding no time: it is read in place of the network's."""

    kind = Kind.LM_HEAD

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.shape.hidden_size, eps=config.norm_eps)
        self.linear = nn.Linear(config.shape.hidden_size, config.shape.vocab_size, bias=False)

    @property
    def reads_by(self) -> tuple[nn.RMSNorm, nn.Linear]:
        return self.norm, self.linear

    def maths(self, norm_of: NormOf | None = None) -> HeadMaths:
        return lambda x, turn, attend: x


HEADS: dict[Kind, type[AdapterHead] | type[BlockHead] | type[LmHead]] = {
    Kind.ADAPTER: AdapterHead,
    Kind.BLOCK: BlockHead,
    Kind.LM_HEAD: LmHead,
}


def new_head(kind: Kind, network: Llama) -> ExitHead:
    """A head to be trained, on the network's device, in fp32: a block starts as a copy of the last layer, whose output
    the final norm and the LM head were made for; the others as no change."""
    head = HEADS[kind](network.config).to(network.embedding.weight.device)
    if isinstance(head, BlockHead):
        head.layer.load_state_dict(network.layers[-1].state_dict())
    if isinstance(head, LmHead):
        head.norm.load_state_dict(network.norm.state_dict())
        head.linear.load_state_dict(network.head.state_dict())
    return head


def attach(network: Llama, heads: Mapping[int, ExitHead]) -> Llama:
    """Read the network's exits out through these heads, by exit layer, instead of those attached before; an empty
    mapping takes all off. The heads move to the network's device and type.

    Raises InputError where there is no such exit or the head is of another size.
    """
    shape = network.config.shape
    for exit_layer, head in heads.items():
        if not 1 <= exit_layer < shape.n_layers:
            raise InputError(
                f"network {shape.name} has {shape.n_layers} layers: an exit head belongs at layer 1 to "
                f"{shape.n_layers - 1}, not {exit_layer}"
            )
        check_sizes(HEADS[head.kind](network.config), _sizes(head), f"the head of exit {exit_layer}", shape.name)
    for head in heads.values():
        head.to(network.embedding.weight.device, dtype_of(network)).requires_grad_(False).eval()
    network.exit_heads = nn.ModuleDict({str(exit_layer): heads[exit_layer] for exit_layer in sorted(heads)})
    return network


def heads_of(network: Llama) -> dict[int, ExitHead]:
    """The heads that are attached, by exit layer."""
    return {int(exit_layer): cast(ExitHead, head) for exit_layer, head in network.exit_heads.items()}


def _sizes(head: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}


def check_sizes(expected: nn.Module, found: Mapping[str, tuple[int, ...]], what: str, name: str) -> None:
    """Raises InputError unless all parameters are there, of the right sizes, and no others."""
    for parameter, size in _sizes(expected).items():
        if found.get(parameter) != size:
            raise InputError(f"{what} has {parameter} of size {found.get(parameter)}, network {name} needs {size}")
    surplus = sorted(set(found) - set(_sizes(expected)))
    if surplus:
        raise InputError(f"{what} also holds {surplus[0]}, which no such head has")
