"""Chunks on a Ray cluster. Ray moves the work and repeats what a dying worker or node was at."""

from __future__ import annotations

import hashlib
import logging
import socket
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import ray

from hispec_sim.errors import InputError
from hispec_sim.scenario.load import LoadedScenario
from hispec_sim.scenario.schema import TraceSpec
from hispec_sim.sweep.evaluate import Figures
from hispec_sim.sweep.identity import code_version, input_files
from hispec_sim.sweep.load import Sweep
from hispec_sim.sweep.runners.chunk import Chunk, Done, Runner, evaluate_chunk
from hispec_sim.sweep.space import Space

_PATIENCE_S = 10.0  # until a cluster's first answer
_RETRIES = 10  # of a chunk whose worker died
_AHEAD = 2  # chunks in flight per CPU: enough that none waits, few enough that a late worker gets some

Files = Mapping[str, bytes]


@contextmanager
def cluster_runner(sweep: Sweep, address: str | None) -> Iterator[Runner]:
    """Connect to the cluster at `address`, or start one on this machine.

    Workers need this version of hispec-sim and no file of this machine. Raises InputError when no cluster answers.
    """
    if not ray.is_initialized():
        try:
            _call(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"no Ray cluster answers at {address or 'this machine'}: {reason}; start one with `ray start --head`"
            ) from None
    yield partial(_run, sweep)


def _call(address: str | None) -> None:
    """Connect to host:port once, since Ray would try for minutes where nobody listens. Raises OSError."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        host = host.removeprefix("ray://").strip("[]")
        socket.create_connection((host, min(int(port), 65_535)), _PATIENCE_S).close()


def _run(sweep: Sweep, chunks: Sequence[Chunk]) -> Generator[Done, None, None]:
    space = Space(sweep)
    places = (place for chunk in chunks for place in chunk.places)
    read = {path for policy, values in places for path in input_files(space.part(policy).scenario(values))}
    files: Files = {str(path): path.read_bytes() for path in read}
    content: tuple[str, Sweep, Files] = (code_version(), sweep, files)
    shared = ray.put(content)
    evaluate = ray.remote(max_retries=_RETRIES)(_evaluate)
    waiting: dict[Any, Chunk] = {}
    rest: Iterator[Chunk] = iter(chunks)
    try:
        while True:
            room = max(1, _AHEAD * _cpus()) - len(waiting)
            for chunk in (chunk for _, chunk in zip(range(room), rest, strict=False)):
                waiting[evaluate.remote(shared, chunk)] = chunk
            if not waiting:
                return
            done, _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done[0]), ray.get(done[0])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"the Ray cluster failed ({reason}); all that was finished is kept: run the same command again"
        ) from None
    finally:
        for reference in waiting:
            ray.cancel(reference)


def _cpus() -> int:
    resources: dict[str, float] = cast(Any, ray).cluster_resources()
    return int(resources.get("CPU", 1))


def _evaluate(shared: tuple[str, Sweep, Files], chunk: Chunk) -> list[Figures]:
    """On a worker, anywhere."""
    version, sweep, files = shared
    if version != code_version():
        raise InputError(
            f"a Ray worker has hispec-sim {code_version()}, and this sweep runs with {version}; install the same there"
        )
    return evaluate_chunk(Space(sweep), chunk, partial(_relocated, _written(files)))


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """One per worker, so that a file is written and read once."""
    return tempfile.TemporaryDirectory(prefix="hispec-sim-")


def _written(files: Files) -> dict[str, str]:
    """Where each file lies here, by where it lay."""
    places = {}
    for name, data in files.items():
        path = Path(_folder().name) / f"{hashlib.sha256(data).hexdigest()}-{Path(name).name}"
        if not path.exists():
            path.write_bytes(data)
        places[name] = str(path)
    return places


def _relocated(places: Mapping[str, str], loaded: LoadedScenario) -> LoadedScenario:
    """The scenario with its files where they lie here."""

    def here(name: str) -> str:
        return places[str(loaded.folder / name)]

    networks = {
        name: network if network.profile is None else network.model_copy(update={"profile": here(network.profile)})
        for name, network in loaded.scenario.networks.items()
    }
    policies = [
        policy.model_copy(
            update={"acceptance": policy.acceptance.model_copy(update={"trace": here(policy.acceptance.trace)})}
        )
        if isinstance(policy.acceptance, TraceSpec)
        else policy
        for policy in loaded.scenario.policies
    ]
    scenario = loaded.scenario.model_copy(update={"networks": networks, "policies": policies})
    return LoadedScenario(scenario, loaded.source, loaded.uses)
