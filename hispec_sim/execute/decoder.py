"""The reference executor: real networks decode text, driven by the same cascade and scheduler as the simulator.

Each sequence stands at a node of the cascade's graph of states and asks for its forward; the scheduler groups what the
sequences ask for; a forward is run, and the logits of a step's last forward decide the outcome, which leads to the next
node. Every cascade that can be simulated can be executed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hispec_sim.cascade import Cascade, Forward
from hispec_sim.errors import InputError
from hispec_sim.execute.choosing import Chooser, Token
from hispec_sim.execute.prompt_caches import PromptCaches, prefill
from hispec_sim.execute.record import DeviceForward, Record, SequenceRecord
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama
from hispec_sim.scheduler import Grouping, Scheduler
from hispec_sim.step_graph import Node, shared_graph

Committed = Callable[[int, Sequence[Token]], None]
"""Called with a sequence's index and the tokens that have just become final. Its time is no part of the record."""


@dataclass(slots=True)
class Decoding:
    """One sequence being decoded: `node` is where it stands in the cascade, `text` is prompt and committed tokens,
    `tentative` what levels hold beyond, `room` how many tokens may still be committed, none when it has finished."""

    index: int
    slot: int
    text: list[int]
    chooser: Chooser
    node: Node
    room: int
    tentative: list[Token] = field(default_factory=list)
    record: SequenceRecord = field(default_factory=SequenceRecord)

    def piece(self, forward: Forward) -> Piece:
        """What the sequence contributes to a forward."""
        position = len(self.text) + forward.position
        ids: list[int] = []
        if forward.first_layer == 0:
            ids = self.text[position : position + forward.tokens]
            tentative = self.tentative[max(forward.position, 0) : forward.position + forward.tokens]
            ids.extend(token.token_id for token in tentative)
        return Piece(self.slot, position, forward.tokens, forward.logits, ids)


class Decoder:
    """Decodes prompts with one cascade over real networks, up to `slots` sequences at once. `device` is that of the
    target."""

    def __init__(
        self,
        cascade: Cascade,
        networks: Mapping[str, Llama | CachedNetwork],
        *,
        slots: int,
        max_tokens: int,
        grouping: Grouping = Grouping.WAIT_TO_GROUP,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Allocates caches for `slots` sequences of `max_tokens` tokens, prompt included, but for networks that bring
        theirs; `clock_s` tells the seconds that the record is made of. Raises InputError."""
        self.cascade = cascade
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._grouping = grouping
        self._slots = slots
        self._max_tokens = max_tokens
        self._graph = shared_graph(cascade)
        self._networks = {
            name: _with_caches(_known(networks, name), name, cascade, slots, max_tokens)
            for name in {level.network for level in cascade.levels}
        }
        self.device = self._networks[cascade.levels[-1].network].network.embedding.weight.device

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        new_chooser: Callable[[int], Chooser],
        stop_ids: Collection[int] = (),
        on_commit: Committed = lambda index, tokens: None,
        prefill_first: bool = False,
        prompt_caches: Mapping[str, PromptCaches] | None = None,
        prefilled: bool = False,
    ) -> tuple[list[list[int]], Record]:
        """New token ids of every prompt, and what was done.

        Sequences end with a stop token or after `max_new_tokens`; as one ends, the next prompt takes its slot.
        `new_chooser` is called once per prompt. With `prefill_first` a prompt but for its last token goes through all
        networks before its decoding starts, as it stands where a simulation begins, and the record keeps that time
        apart; without, levels take the prompt in when it is their turn. Networks in `prompt_caches` take it from there,
        where it stands already. `prefilled` says that the caches that the
        networks brought hold all prompts so already, there being a slot for each. Raises InputError when a prompt is
        empty, does not fit or holds a token that a network has not, or has no slot of its own though it must.
        """
        if prefilled and len(prompts) > self._slots:
            raise InputError(f"{len(prompts)} prompts cannot stand in the caches of {self._slots} slots already")
        vocab_size = min(each.network.config.shape.vocab_size for each in self._networks.values())
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise InputError(f"prompt {index} is empty; give at least one token")
            if max(prompt) >= vocab_size:
                raise InputError(
                    f"prompt {index} holds the token {max(prompt)}, but the network has only {vocab_size} tokens: "
                    "leave that token's text out, or take the tokenizer that belongs to the network"
                )
            if len(prompt) + max_new_tokens > self._max_tokens:
                raise InputError(
                    f"prompt {index} has {len(prompt)} tokens and {max_new_tokens} new ones are asked for, but the "
                    f"caches hold {self._max_tokens}; shorten either or make larger caches"
                )
        record = Record(sequences=[SequenceRecord() for _ in prompts])
        outputs: list[list[int]] = [[] for _ in prompts]
        scheduler: Scheduler[Decoding] = Scheduler(self._grouping)
        waiting = iter(enumerate(prompts))

        def admit(slot: int) -> None:
            for index, prompt in waiting:
                if prefill_first:
                    prefill_ms = self._prefill(slot, prompt[:-1], prompt_caches or {})
                    record.prefill_ms += prefill_ms
                    if record.device:
                        record.device[-1].prefill_ms += prefill_ms
                node = self._graph.start(max_new_tokens, None if prefill_first or prefilled else len(prompt))
                sequence = Decoding(
                    index, slot, list(prompt), new_chooser(index), node, max_new_tokens, record=record.sequences[index]
                )
                scheduler.ask(node.span, sequence)
                return

        self._began_s = self._clock_s()
        for slot in range(self._slots):
            admit(slot)
        while batch := scheduler.next_batch():
            read = self._run(batch, record)
            for sequence in batch:
                node = sequence.node
                sequence.record.forwards.append(node.forward)
                rows = read.get(sequence.slot)
                if node.next_forward is not None:
                    sequence.node = node.next_forward
                else:
                    assert rows is not None
                    committed = self._finish_step(sequence, rows, stop_ids)
                    if committed:
                        outputs[sequence.index].extend(token.token_id for token in committed)
                        began_s = self._clock_s()
                        on_commit(sequence.index, committed)
                        self._began_s += self._clock_s() - began_s
                if sequence.room:
                    scheduler.ask(sequence.node.span, sequence)
                else:
                    admit(sequence.slot)
        record.wall_ms = 1000 * (self._clock_s() - self._began_s)
        return outputs, record

    def _run(self, batch: Sequence[Decoding], record: Record) -> dict[int, Tensor]:
        """One forward for all; returns the logits of each slot that is read out. Sequences ask in any order, but go
        through the network in that of their slots: caches of all slots are then read where they lie, not copied."""
        forward = batch[0].node.forward
        pieces = [sequence.piece(sequence.node.forward) for sequence in batch]
        pieces.sort(key=lambda piece: piece.slot)
        began_s = self._clock_s()
        logits = self._networks[forward.network].forward(forward.first_layer, forward.last_layer, pieces)
        if logits is not None and logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        record.device.append(
            DeviceForward(
                forward.network,
                forward.first_layer,
                forward.last_layer,
                len(batch),
                sum(piece.tokens for piece in pieces),
                sum(piece.logits for piece in pieces),
                forward.shortlist,
                1000 * (self._clock_s() - began_s),
                1000 * (began_s - self._began_s),
                max(piece.tokens for piece in pieces),
                max(piece.position + piece.tokens for piece in pieces),
            )
        )
        return _by_slot(pieces, logits)

    def _prefill(self, slot: int, known: Sequence[int], prompt_caches: Mapping[str, PromptCaches]) -> float:
        """Let the caches hold a prompt but for its last token, to the depth of every level. Returns the
        milliseconds."""
        began_s = self._clock_s()
        for name, network in self._networks.items() if known else ():
            if name in prompt_caches:
                prompt_caches[name].fill(network, slot, known)
            else:
                depths = [level.exit_layer for level in self.cascade.levels if level.network == name]
                prefill(network, slot, known, depths)
        return 1000 * (self._clock_s() - began_s)

    def _finish_step(self, sequence: Decoding, logits: Tensor, stop_ids: Collection[int]) -> list[Token]:
        """Judge the run, move on, and return what was committed."""
        node = sequence.node
        first = node.verified_from
        run = sequence.tentative[first : first + node.run]
        verdict = sequence.chooser.judge(node.level, logits, run, bonus=node.bonus or node.run == 0)
        if node.run:
            sequence.record.verified.append((node.level, node.run, verdict.matched))
        del sequence.tentative[first + verdict.matched :]
        if verdict.own is not None:
            sequence.tentative.append(verdict.own)
        ended = sequence.tentative[-1].token_id in stop_ids
        move = self._graph.follow(node, verdict.matched, ended=ended)
        committed: list[Token] = []
        if move.committed:
            committed, sequence.tentative = sequence.tentative, []
            sequence.text.extend(token.token_id for token in committed)
            sequence.room -= move.committed
        if move.target is None:
            sequence.room = 0
        elif move.committed and sequence.room < self._graph.ample_room:
            sequence.node = self._graph.with_room(move.target, sequence.room)
        else:
            sequence.node = move.target
        return committed


def _by_slot(pieces: Sequence[Piece], logits: Tensor | None) -> dict[int, Tensor]:
    """The rows of each piece that is read out."""
    if logits is None:
        return {}
    if len(pieces) == 1:
        return {pieces[0].slot: logits}
    read = [piece for piece in pieces if piece.logits]
    return dict(zip((piece.slot for piece in read), logits.split([piece.logits for piece in read]), strict=True))


def _with_caches(
    network: Llama | CachedNetwork, name: str, cascade: Cascade, slots: int, max_tokens: int
) -> CachedNetwork:
    if isinstance(network, CachedNetwork):
        return network
    levels = [level for level in cascade.levels if level.network == name]
    return CachedNetwork(
        network,
        slots=slots,
        max_tokens=max_tokens,
        exits=[level.exit_layer for level in levels],
        shortlists={level.exit_layer: level.shortlist for level in levels if level.shortlist is not None},
    )


def _known(networks: Mapping[str, Llama | CachedNetwork], name: str) -> Llama | CachedNetwork:
    if name not in networks:
        raise InputError(f"the cascade names the network {name!r}, but only {', '.join(networks)} are loaded")
    return networks[name]
