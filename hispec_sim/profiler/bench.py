"""The real device of a measurement: forwards of a cached network, timed one by one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from hispec_sim.cascade import Bonus, Cascade, Level
from hispec_sim.execute.choosing import Greedy, Token
from hispec_sim.execute.decoder import Decoder
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.llama import Llama
from hispec_sim.profiler.passes import Pass, Shot


class NetworkBench:
    """A network over caches as decoding has them, filled with random text."""

    def __init__(
        self,
        network: Llama,
        *,
        slots: int,
        max_tokens: int,
        exits: Sequence[int],
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`exits`: where spans begin or end. Raises InputError when the network has fewer positions than asked."""
        self._network, self._clock_s = network, clock_s
        self._cached = CachedNetwork(network, slots=slots, max_tokens=max_tokens, exits=exits)
        generator = torch.Generator().manual_seed(0)
        vocab_size = network.config.shape.vocab_size
        self._text = torch.randint(vocab_size, (slots, max_tokens), generator=generator).tolist()
        self._device = network.embedding.weight.device
        self._matrix = torch.rand(256, 256, generator=generator).to(self._device)
        with torch.inference_mode():
            for slot in range(slots):
                edges = (0, *sorted(each for each in exits if each < network.config.shape.n_layers))
                for first, last in zip(edges, (*edges[1:], network.config.shape.n_layers), strict=True):
                    self._cached.forward(first, last, [Piece(slot, 0, max_tokens, 0, self._text[slot])])

    @torch.inference_mode()
    def run_pass(self, shots: Pass) -> list[float]:
        """Milliseconds of each shot, in order."""
        found = []
        for shot in shots:
            pieces = [self._piece(shot, slot) for slot in range(shot.batch)]
            if shot.read_out:
                self._cached.forget_unread(shot.last_layer, pieces)
            began_s = self._now_s()
            self._cached.forward(shot.first_layer, shot.last_layer, pieces)
            found.append(1000 * (self._now_s() - began_s))
        return found

    def probe_ms(self) -> float:
        """A fixed product of matrices, the median of five."""
        times = []
        for _ in range(5):
            began_s = self._now_s()
            for _ in range(4):
                self._matrix @ self._matrix
            times.append(1000 * (self._now_s() - began_s))
        return statistics.median(times)

    @torch.inference_mode()
    def choose_ms(self, batch: int, query_tokens: int, repeats: int = 15) -> float:
        """Milliseconds to judge the logits of so many sequences, greedily."""
        logits = torch.rand(query_tokens, self._network.config.shape.vocab_size, device=self._device)
        run = [Token(token_id, 0) for token_id in logits.argmax(dim=-1).tolist()]
        chooser, times = Greedy(), []
        for _ in range(repeats):
            began_s = self._now_s()
            for _ in range(batch):
                chooser.judge(1, logits, run, bonus=False)
            times.append(1000 * (self._now_s() - began_s))
        return statistics.median(times)

    def host_ms(self, batch: int, *, tokens: int = 24, repeats: int = 3) -> float:
        """Milliseconds between forwards of the decode loop, besides judging logits: from decoding with one level."""
        shape = self._network.config.shape
        cascade = Cascade((Level(shape.name, shape.n_layers, 0),), Bonus.ALWAYS)
        decoder = Decoder(
            cascade, {shape.name: self._network}, slots=batch, max_tokens=16 + tokens, clock_s=self._clock_s
        )
        prompts = [text[:16] for text in self._text[:batch]]
        found = []
        for _ in range(repeats):
            _, record = decoder.decode(prompts, tokens, new_chooser=lambda _: Greedy())
            outside_ms = record.wall_ms - sum(forward.duration_ms for forward in record.device)
            found.append(outside_ms / len(record.device))
        return max(0.0, statistics.median(found) - self.choose_ms(batch, 1))

    def _piece(self, shot: Shot, slot: int) -> Piece:
        first, n = shot.context - shot.query_tokens, shot.query_tokens
        ids = self._text[slot][first : first + n] if shot.first_layer == 0 else ()
        return Piece(slot, first, n, n if shot.read_out else 0, ids)

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock_s()
