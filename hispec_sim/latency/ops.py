"""Names of the ops that a latency profile has rows of, and which axes each has."""

from __future__ import annotations

import re

TOKEN_OPS: tuple[str, ...] = (
    "layer_linear",
    "layer_elementwise",
    "all_reduce_custom",
    "all_reduce_nccl",
    "lm_head",
    "embedding",
)
"""Ops whose time depends on the token count alone: batch is 1, context empty, the count is in query_tokens."""

GRID_OPS: tuple[str, ...] = ("attention", "attention_prefill", "layer", "layer_prefill")
"""Ops on a full grid of (batch, query_tokens, context). The `_prefill` ones carry on where the others end."""

STEP_OPS: tuple[str, ...] = ("forward", "choose", "host")
"""Ops of the decode loop that every forward pays once, on a grid of (batch, query_tokens); context empty. `host` is the
gap behind a forward, `choose` what reading out adds to it."""

OPS: tuple[str, ...] = (*TOKEN_OPS, *GRID_OPS, *STEP_OPS)

LAYER_OPS: tuple[str, ...] = ("layer", "layer_linear", "attention")
"""Those that most of a forward's time goes to."""

_NUMBERED_OP = re.compile(r"(lm_head|exit_head|repeat|silent_repeat|verify|host|choose)_([1-9][0-9]{0,8})")
_GRID_WITH_LAYERS = ("exit_head", "repeat", "silent_repeat", "verify")
_STEP_WITH_LAYERS = ("host", "choose")


def shortlist_op(shortlist: int) -> str:
    """The token op of an LM head that reads out a shortlist of so many tokens: `lm_head_4096`."""
    return f"lm_head_{shortlist}"


def shortlist_of(op: str) -> int | None:
    """How many tokens a shortlist's LM head reads out; None for every other op."""
    return _number_of("lm_head", op)


def exit_head_op(exit_layer: int) -> str:
    """The grid op of the trained head that an exit is read out through: `exit_head_8`."""
    return f"exit_head_{exit_layer}"


def exit_layer_of(op: str) -> int | None:
    """The exit layer of an exit head's op; None for every other op."""
    return _number_of("exit_head", op)


def repeat_op(n_layers: int, *, read: bool) -> str:
    """The grid op of a whole forward of one token through the first so many layers, read out or not, behind the
    target's and behind others like it; its `query_tokens` tell which one in that row it is."""
    return f"{'repeat' if read else 'silent_repeat'}_{n_layers}"


def repeated_layers_of(op: str, *, read: bool) -> int | None:
    """How many layers a `repeat_L` or `silent_repeat_L` goes through; None for every other op."""
    return _number_of("repeat" if read else "silent_repeat", op)


def verify_op(exit_layer: int) -> str:
    """The grid op of the target's forward from an exit on, behind rows of drafts by that exit: `verify_8`. All its
    query tokens are read out."""
    return f"verify_{exit_layer}"


def resumed_layer_of(op: str) -> int | None:
    """The exit layer of a `verify_L`; None for every other op."""
    return _number_of("verify", op)


def gap_op(n_layers: int, *, read: bool) -> str:
    """The step op `host_L` or `choose_L`: the gap behind a forward of one token through the first so many layers that
    is not read out, and what reading out adds to `host` there; such a forward leaves more of the loop in the
    processor's caches than one through all layers does. The `query_tokens` of `choose_L` tell which one behind the
    target's it is."""
    return f"{'choose' if read else 'host'}_{n_layers}"


def gap_layers_of(op: str, *, read: bool) -> int | None:
    """How many layers a `choose_L` or `host_L` follows; None for every other op."""
    return _number_of("choose" if read else "host", op)


def layers_of(op: str) -> int:
    """The layers in the name of an op; 0 for one that names none."""
    return max(_number_of(prefix, op) or 0 for prefix in (*_GRID_WITH_LAYERS, *_STEP_WITH_LAYERS))


def _number_of(prefix: str, op: str) -> int | None:
    match = _NUMBERED_OP.fullmatch(op)
    return int(match[2]) if match and match[1] == prefix else None


def is_token_op(op: str) -> bool:
    """Whether an op's time depends on the token count alone."""
    return op in TOKEN_OPS or shortlist_of(op) is not None


def is_grid_op(op: str) -> bool:
    """Whether an op's time depends on the context too."""
    return op in GRID_OPS or any(_number_of(prefix, op) for prefix in _GRID_WITH_LAYERS)


def is_step_op(op: str) -> bool:
    """Whether an op is one of the decode loop, paid once by a forward."""
    return op in STEP_OPS or any(_number_of(prefix, op) for prefix in _STEP_WITH_LAYERS)
