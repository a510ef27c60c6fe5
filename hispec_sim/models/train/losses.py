"""Losses at exits: the text, and the divergence from the deepest exit of the step."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def text_loss(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats; log_probs: (positions, vocab_size), targets: (positions,)."""
    return F.nll_loss(log_probs, targets)


def divergence(teacher: Tensor, student: Tensor, pull: float) -> Tensor:
    """Mean Kullback-Leibler divergence KL(teacher || student) in nats, of log-probabilities (positions, vocab_size).

    Only the share `pull` of its gradient flows into the teacher.
    """
    fixed = teacher.detach()
    teacher = fixed + pull * (teacher - fixed) if pull > 0 else fixed
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def exit_loss(teacher: Tensor, student: Tensor, targets: Tensor, distill: float, pull: float) -> tuple[Tensor, Tensor]:
    """One exit's loss, (1 - distill) text + distill divergence, and its text loss alone (detached)."""
    text = text_loss(student, targets)
    if distill == 0:
        return text, text.detach()
    return (1 - distill) * text + distill * divergence(teacher, student, pull), text.detach()


def log_probabilities(states: Tensor, norm_weight: Tensor, head_weight: Tensor, eps: float) -> Tensor:
    """Read hidden states (batch, tokens, hidden_size) out: float32 log-probabilities (batch * tokens, vocab_size)."""
    x = F.rms_norm(states.flatten(0, 1), norm_weight.shape, norm_weight, eps)
    return torch.log_softmax(F.linear(x, head_weight).float(), dim=-1)
