"""The sets of prompts of a validation, which go in turn (prompt i is of set i modulo their number), and the traces that
predict them: recorded on other prompts, or paired with the very same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from hispec_sim.acceptance.trace import AgreementTrace
from hispec_sim.errors import InputError
from hispec_sim.models.loading import LoadedModel
from hispec_sim.profiler.prompts import Split, Text, prompt_set, sha256
from hispec_sim.validate.campaign import Campaign
from hispec_sim.validate.decoding import usable_prompts


def prompt_sets(names: str, half: Split, prompts: int, traces: int) -> list[list[Text]]:
    """The sets of a list with commas. Raises InputError if one is not there, `prompts` cannot be shared out evenly, or
    the number of `traces` is neither one nor that of the sets."""
    sets = [prompt_set(name.strip(), half) for name in names.split(",")]
    if prompts % len(sets):
        raise InputError(
            f"--prompts {names} are {len(sets)} sets, which {prompts} prompts are not shared out among evenly; give a "
            "--limit that is a multiple"
        )
    if traces not in (1, len(sets)):
        raise InputError(
            f"--trace is given {traces} times for the {len(sets)} sets of --prompts {names}; give one that was "
            "recorded on such prompts for each, in the same order, or one for all"
        )
    return sets


def set_in_turn(sets: Sequence[Sequence[Text]]) -> list[Text]:
    """The first prompt of every set, then the second of every set, and so on; all have as many."""
    return [text for one_of_each in zip(*sets, strict=True) for text in one_of_each]


def campaign_prompts(
    campaign: Campaign,
    sets: Sequence[Sequence[Text]],
    each: int,
    new_tokens: int,
    target: LoadedModel,
    writing: Callable[[], AbstractContextManager[Callable[[], None]]],
    *,
    chat: bool,
) -> list[Text]:
    """The prompts of a campaign, in turn of the sets: when it begins, so many `each` that the target goes on from for
    `new_tokens` tokens, and the same ever after. `writing` shows that the target
    writes. Raises InputError if one is not in the sets any more."""

    def usable() -> list[str]:
        with writing() as tick:
            kept = [usable_prompts(texts, target, each, new_tokens, tick, chat=chat) for texts in sets]
        return sha256([text.text for text in set_in_turn(kept)])

    every = [text for texts in sets for text in texts]
    known = dict(zip(sha256([text.text for text in every]), every, strict=True))
    hashes = campaign.prompts(usable)
    if missing := [sha for sha in hashes if sha not in known]:
        raise InputError(f"--resume: {len(missing)} prompts of {campaign.folder} are not in --prompts any more")
    return [known[sha] for sha in hashes]


def check_paired(trace: AgreementTrace, texts: Sequence[Text]) -> None:
    """Raises InputError if the trace has recorded none of the texts."""
    if {prompt.sha256 for prompt in trace.prompts}.isdisjoint(sha256([text.text for text in texts])):
        raise _not_recorded(texts[0])


def paired_sequences(trace: AgreementTrace, hashes: Sequence[str], texts: Sequence[Text]) -> list[int]:
    """The recorded sequence of each prompt. Raises InputError if one has none."""
    recorded = {prompt.sha256: sequence for sequence, prompt in enumerate(trace.prompts)}
    for sha, text in zip(hashes, texts, strict=True):
        if sha not in recorded:
            raise _not_recorded(text)
    return [recorded[sha] for sha in hashes]


def _not_recorded(text: Text) -> InputError:
    return InputError(
        f"the design is paired, but the trace has no recording of the prompt {text.name}; record the same --prompts "
        "and --split, or take a design that is not paired, such as scenarios/validation/quick.yaml"
    )


def check_alike(trace: AgreementTrace, chat: bool, path: Path) -> None:
    """Raises InputError if the trace of that path says that its prompts were encoded in another way."""
    recorded = trace.provenance.get("chat")
    if isinstance(recorded, bool) and recorded is not chat:
        how, fix = ("with", "give") if recorded else ("without", "leave out")
        raise InputError(
            f"--trace {path} was recorded {how} --chat: after a question in its chat template a model writes other "
            f"text than after the same words alone; {fix} --chat, or record another trace"
        )


def check_apart(trace: AgreementTrace, texts: Sequence[Text], path: Path) -> None:
    """Raises InputError if the trace of that path has seen one of the texts or its group."""
    groups, seen = {prompt.group for prompt in trace.prompts}, {prompt.sha256 for prompt in trace.prompts}
    for text, sha in zip(texts, sha256([text.text for text in texts]), strict=True):
        if sha in seen or text.group in groups:
            raise InputError(
                f"--trace {path} was recorded on the prompt {text.name} or its group, which is to be predicted; "
                "record the trace with --split tuning, or set paired: true in the design to check the replay alone"
            )
