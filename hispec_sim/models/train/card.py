"""The model card, written from a run's settings and measured numbers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hispec_sim.models.train.agreement import Pair, Share
from hispec_sim.models.train.evaluate import Evaluation
from hispec_sim.models.train.recipe import Recipe
from hispec_sim.models.train.run_folder import Settings
from hispec_sim.models.train.span import Speed

_CURVE_ROWS = 12


def model_card(
    settings: Settings,
    steps: int,
    parameters: int,
    megabytes: float,
    curve: Sequence[Mapping[str, Any]],
    found: Evaluation,
) -> str:
    """The card in Markdown. `parameters` are weights, `megabytes` the size of their files, `steps` those made."""
    recipe, source = settings.recipe, settings.source
    tokens = steps * recipe.tokens_per_step
    layers = recipe.n_layers
    unfinished = "" if steps == recipe.steps else f" **Unfinished: {steps} of {recipe.steps} steps.**"
    exits = ", ".join(f"{layer} ({weight:g})" for layer, weight in sorted(recipe.exits.items()))
    bits = found.full_loss / math.log(2) * (source.held_out_tokens / source.held_out_bytes)
    hours = curve[-1]["spent_s"] / 3600 if curve else math.nan
    return f"""# hispec-reference: a small network with early exits

A Llama-architecture network trained from scratch so that hierarchical speculative decoding has a real case to be
measured on: every exit layer can be read out through the one final norm and LM head.{unfinished}

| | |
|---|---|
| architecture | {layers} layers, hidden {recipe.hidden_size}, {recipe.n_heads} heads of {recipe.head_dim}, SwiGLU \
{recipe.intermediate_size}, tied vocabulary of {recipe.vocab_size} (byte-level BPE) |
| size | {parameters / 1e6:.2f}M weights, {megabytes:.1f} MB in fp16 |
| text | source of {source.package}: {source.training_files} files, {source.training_tokens / 1e6:.1f}M tokens; \
digest {source.digest} |
| held out | {source.held_out_files} files in {len(source.held_out_folders)} folders, whole families: \
{", ".join(folder.rsplit("/", 1)[-1] for folder in source.held_out_folders)} |
| seen | {tokens / 1e6:.1f}M tokens in {steps} steps of {recipe.batch} x {recipe.context}, seed {recipe.seed}, \
{hours:.1f} hours; {settings.speed} |
| made by | `{made_by(recipe, settings.speed)}` |
| held-out loss | {found.full_loss:.3f} nats per token, {bits:.2f} bits per byte |

## Recipe

LayerSkip (arXiv 2404.16710). AdamW, learning rate {recipe.learning_rate:g} with a cosine to zero, betas \
{recipe.beta1:g}/{recipe.beta2:g}, weight decay {recipe.weight_decay:g}, clipping at {recipe.clip:g}. Layer dropout
rises with depth to {recipe.layer_dropout:g} and ends after {recipe.dropout_until:.0%} of the steps.
{recipe.shallow_share:.0%} of the steps run only the first {" or ".join(map(str, recipe.shallow_depths))} layers. Each
step reads out its deepest layer and {recipe.drawn_exits} exits drawn by weight, {exits}, each with
{recipe.exit_scale:g} of the deepest one's weight in the loss. After {recipe.distill_from:.0%} of the steps
{recipe.distill_share:.0%} of an exit's loss is its divergence from the deepest exit; {recipe.pull:.0%} of that gradient
also reaches the deepest exit, for exits from {recipe.pulling_from} on, so that the full network leaves what its middle
says only where the text pays for it. **Agreement was trained for; it is not what an ordinary network has.** The
settings of a run are chosen by hand; no part was tested alone.

## Agreement with the full network

Share of positions where an exit's first choice is the full network's; ± one standard error over
{found.plan.prompts} prompts of {found.plan.prompt_tokens} held-out tokens, {found.plan.new_tokens} new tokens each.
`accepted` is the probability that a token sampled at the exit passes speculative rejection.
{found.looped_greedy.value:.0%} of greedy and {found.looped_sampled.value:.0%} of sampled positions repeat eight tokens
that stood before (looped).

{agreement_table(found)}

## Pairs for a three-level cascade

P(full = middle) given that the middle exit says what the draft said, and given that it differs. Where the two columns
differ, a model with independent acceptance is wrong.

On greedy text:

{pair_table(found.pairs)}

First choices on text sampled at temperature {found.plan.temperature:g}:

{pair_table(found.sampled_pairs)}

## Held-out loss during training

Nats per token on sixteen held-out windows, by exit layer.

{curve_table(curve)}

## What it cannot do

- It is no assistant and knows no language but this package's kind of Python. It cannot be trusted with any question.
- It was trained on windows of {recipe.context} tokens. It has {recipe.max_positions} positions; those beyond are
  untrained.
- {source.shared_lines:.0%} of the long held-out lines stand somewhere in the training text too, because folders of
  that package copy from one another: held-out numbers are those of unseen files of a familiar kind, and other text
  agrees less.
- Greedy text of so small a network loops; the table tells looped positions apart.
- {_depth_note(found)}
- Agreement is between exits of this network; it says nothing about the exits of other networks.
"""


def made_by(recipe: Recipe, speed: Speed) -> str:
    """The command that trains the same network again, with the same release of the text."""
    compiled, bfloat16 = ("" if on else "no-" for on in (speed.compiled, speed.bfloat16))
    return (
        f"hispec train reference --out DIR --steps {recipe.steps} --seed {recipe.seed} --threads {speed.threads} "
        f"--{compiled}compile --{bfloat16}bf16"
    )


def agreement_table(found: Evaluation) -> str:
    """Agreement of every exit, as a Markdown table."""
    temperature = f"T={found.plan.temperature:g}"
    head = ["exit", "loss", "held-out text", "greedy", "greedy, looped", "greedy, not looped"]
    rows = [
        [str(r.exit_layer), f"{r.loss:.3f}", *map(cell, (r.text, r.greedy, r.greedy_looped, r.greedy_new)), *both]
        for r in found.exits
        for both in [[cell(r.sampled), cell(r.accepted)]]
    ]
    rows.append([str(found.n_layers), f"{found.full_loss:.3f}", *["1"] * 6])
    return _table([*head, f"sampled {temperature}", f"accepted {temperature}"], rows)


def pair_table(pairs: Iterable[Pair]) -> str:
    """Conditional agreements of pairs, as a Markdown table."""
    head = ["draft, middle", "P(middle = draft)", "P(full = middle)", "... if same", "... if they differ"]
    rows = [
        [f"{p.draft}, {p.middle}", cell(p.same), f"{p.full_if_independent:.3f}", cell(p.full_if_same),
         cell(p.full_if_differ)]
        for p in pairs
    ]  # fmt: skip
    return _table(head, rows)


def curve_table(curve: Sequence[Mapping[str, Any]]) -> str:
    """The probes of a run, thinned, as a Markdown table."""
    if not curve:
        return "No probe was made."
    stride = max(1, -(-len(curve) // _CURVE_ROWS))
    shown = [entry for i, entry in enumerate(curve) if (len(curve) - 1 - i) % stride == 0]
    exits = sorted(map(int, curve[-1]["loss"]))
    rows = [
        [str(e["step"]), f"{e['tokens'] / 1e6:.2f}M", *(f"{e['loss'][str(exit_layer)]:.3f}" for exit_layer in exits)]
        for e in shown
    ]
    return _table(["step", "tokens", *(f"exit {exit_layer}" for exit_layer in exits)], rows)


def cell(found: Share) -> str:
    """A share with its standard error, .812 ± .006; a dash if there were no positions."""
    if found.positions == 0:
        return "–"
    error = "" if math.isnan(found.error) else f" ± {found.error:.3f}"
    return f"{found.value:.3f}{error}"


def _depth_note(found: Evaluation) -> str:
    best = min(found.exits, key=lambda row: row.loss)
    gain = best.loss - found.full_loss
    middle = min(found.exits, key=lambda row: abs(row.exit_layer - found.n_layers / 4))
    quarter = middle.loss - found.full_loss
    if gain > 0:
        text = f"Depth buys little: the full network's held-out loss is {gain:.3f} nats below that of exit"
    else:
        text = f"Depth buys nothing: the full network's held-out loss is {-gain:.3f} nats above that of exit"
    return (
        f"{text} {best.exit_layer} and {abs(quarter):.3f} {'below' if quarter > 0 else 'above'} that of exit "
        f"{middle.exit_layer}.\n  A shallower network would do about as well; much of the depth is there to be costly."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
