"""A model of a few lines that decodes with any cascade and watches every forward: no tensors, exact bookkeeping.

A level's prediction is a pseudo-random function of the whole prefix. It reads that prefix from its caches, not from
the text, so that a cache that is behind or stale yields other tokens than plain decoding and is caught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hispec_sim.cascade import Bonus, Cascade, Forward, Outcome, State, Step, apply_outcome, next_step, start

VOCABULARY = 12


@dataclass
class FakeModel:
    """`agreement[k]` is how often level k predicts what the target predicts; hashes of integers are reproducible."""

    agreement: Sequence[float]
    seed: int
    stop: int | None = None

    def target(self, prefix: Sequence[int]) -> int:
        return hash((self.seed, *prefix)) % VOCABULARY

    def predict(self, level: int, prefix: Sequence[int]) -> int:
        wrong_by, draw = divmod(hash((self.seed, level, *prefix)) % 2000, 1000)  # two may be wrong in the same way
        agrees = draw < 1000 * self.agreement[level]
        return (self.target(prefix) + (0 if agrees else 1 + wrong_by)) % VOCABULARY

    def decode_plainly(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        text = list(prompt)
        while len(text) < len(prompt) + max_new_tokens:
            text.append(self.target(text))
            if text[-1] == self.stop:
                break
        return text[len(prompt) :]


@dataclass
class Decoder:
    """One request, decoded with the raw functions. `cache[network][layer - 1]` lists the tokens that went through."""

    cascade: Cascade
    model: FakeModel
    prompt: list[int]
    max_new_tokens: int
    prefill: bool
    forwards: list[Forward] = field(default_factory=list)
    pushes: dict[tuple[str, int, int], int] = field(default_factory=dict)  # by network, layer, place in the text
    rollbacks: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text = list(self.prompt)  # prompt, committed and tentative tokens
        self.base = len(self.prompt)  # where the committed text ends: the step's position 0
        held = [] if self.prefill else self.prompt[:-1]
        depth = {level.network: level.exit_layer for level in self.cascade.levels}
        self.cache = {network: [list(held) for _ in range(layers)] for network, layers in depth.items()}
        self.expected = self.model.decode_plainly(self.prompt, self.max_new_tokens)

    def run(self) -> list[int]:
        """Decode to the end and return the committed text, checking all that a step must keep."""
        state = start(self.cascade, self.max_new_tokens, len(self.prompt) if self.prefill else None)
        while not state.finished:
            step = next_step(self.cascade, state)
            self._check_turn(step, state)
            self._check_shape(step)
            assert step.forwards[-1].position + step.forwards[-1].tokens < state.room, "predicts beyond the limit"
            for forward in step.forwards:
                self._push(forward)
            outcome = self._decide(step, state, self._predictions(step, state))
            state = apply_outcome(self.cascade, state, outcome)
            self._check_state(state)
        return self.text[len(self.prompt) :]

    def _check_turn(self, step: Step, state: State) -> None:
        """Levels act when the rules say: Nd and Ni are gathered, or nothing more can be."""
        assert step.level == state.turn
        closed = state.tentative[0] == state.room or (state.tentative[0] > 0 and self.text[-1] == self.model.stop)
        gathered = [below - held for below, held in pairwise(state.tentative)]
        enough = [held >= level.verify_period for held, level in zip(gathered, self.cascade.levels[1:], strict=True)]
        if step.level == 0:
            assert not closed
            assert not any(enough), "drafts on although a level should verify"
        elif step.run == 0:
            assert self.base == len(self.prompt), "only the prompt's prefill verifies nothing"
            assert self.prefill
            assert step.bonus
        else:
            assert step.run == gathered[step.level - 1]
            assert closed or enough[step.level - 1], "verifies too early"
            assert step.bonus == (self.cascade.bonus is Bonus.ALWAYS and not closed)

    def _check_shape(self, step: Step) -> None:
        level = self.cascade.levels[step.level]
        spans = [(forward.first_layer, forward.last_layer) for forward in step.forwards]
        assert spans[-1][1] == level.exit_layer
        assert all(above[0] == below[1] for below, above in pairwise(spans)), "not contiguous"
        assert all(first < last for first, last in spans)
        assert all(forward.network == level.network for forward in step.forwards)
        assert all(forward.logits == 0 for forward in step.forwards[:-1])
        starts = [forward.position for forward in step.forwards]
        assert starts == sorted(set(starts), reverse=True), "two forwards where one longer span would do"
        last = step.forwards[-1]
        used = 1 if step.level == 0 else step.run + step.bonus
        assert last.logits == used <= last.tokens, "logits that nobody uses, or too few"
        self.forwards.extend(step.forwards)

    def _push(self, forward: Forward) -> None:
        layers = self.cache[forward.network]
        begin = self.base + forward.position
        end = begin + forward.tokens
        assert 0 <= begin < end <= len(self.text)
        if forward.first_layer:
            assert len(layers[forward.first_layer - 1]) >= end, "no hidden states to resume from"
        for i in range(forward.first_layer, forward.last_layer):
            assert len(layers[i]) >= begin, "the cache is behind"
            assert len(layers[i]) <= begin, "pushed twice without a rollback"
            layers[i].extend(self.text[begin:end])
            for place in range(begin, end):
                self.pushes[forward.network, i, place] = self.pushes.get((forward.network, i, place), 0) + 1

    def _predictions(self, step: Step, state: State) -> list[int]:
        last = step.forwards[-1]
        seen = self.cache[last.network][last.last_layer - 1]
        first = self.base + last.position + last.tokens - last.logits + 1
        begin = self.base + state.tentative[step.level]  # of the run, or of what the draft adds
        assert (first, len(seen)) == (begin, begin + last.logits - 1), "predicts other positions than it should"
        return [self.model.predict(step.level, seen[: first + i]) for i in range(last.logits)]

    def _decide(self, step: Step, state: State, predictions: list[int]) -> Outcome:
        if step.level == 0:
            self.text.append(predictions[0])
            return Outcome(0, ended=predictions[0] == self.model.stop)
        begin = self.base + state.tentative[step.level]
        proposed = self.text[begin:]
        assert len(proposed) == step.run
        matched = 0
        while matched < step.run and proposed[matched] == predictions[matched]:
            matched += 1
        if matched < step.run:
            del self.text[begin + matched :]
            self._roll_back(begin + matched)
        self.text += predictions[matched : matched + 1]  # its own token: a correction, a bonus or nothing
        return Outcome(matched, ended=self.text[-1] == self.model.stop)

    def _roll_back(self, length: int) -> None:
        for network, layers in self.cache.items():
            for i, tokens in enumerate(layers):
                for place in range(length, len(tokens)):
                    self.rollbacks[network, i, place] = self.rollbacks.get((network, i, place), 0) + 1
                del tokens[length:]

    def _check_state(self, state: State) -> None:
        self.base += state.committed
        committed = self.text[len(self.prompt) : self.base]
        assert committed == self.expected[: len(committed)]
        assert not state.finished or len(self.text) == self.base
        assert state.finished or state.room == len(self.prompt) + self.max_new_tokens - self.base
        assert state.tentative[0] == len(self.text) - self.base <= state.room or state.finished
        assert list(state.tentative) == sorted(state.tentative, reverse=True)
        assert state.tentative[-1] == 0
        for network, layers in self.cache.items():
            assert all(tokens == self.text[: len(tokens)] for tokens in layers), "a rejected token is still cached"
            marks = [(lv.exit_layer, p) for lv, p in zip(self.cascade.levels, state.pushed, strict=True)
                     if lv.network == network]  # fmt: skip
            assert [mark for _, mark in marks] == sorted((mark for _, mark in marks), reverse=True)
            reached = 0
            for exit_layer, mark in marks:
                assert {len(tokens) for tokens in layers[reached:exit_layer]} == {self.base + mark}
                reached = exit_layer
