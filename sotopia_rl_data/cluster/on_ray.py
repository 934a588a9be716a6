"""Ray as what starts the workers: `--on ray` and `--on ray://HOST:PORT`.

A shard is a Ray task, and the limiter an actor beside the cluster's head. Every node has this program installed, in the
same version. Leaves out what a task does (`worker.py`) and who hands tasks out (`driver.py`).
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sotopia_rl_data import plugins
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.plan import AskOptions, DivisiblePlan, Plan
from sotopia_rl_data.cluster.driver import Lost, Run
from sotopia_rl_data.cluster.limiter import Limiter, Told
from sotopia_rl_data.cluster.worker import Ended, ShardTask, ask_shard
from sotopia_rl_data.code import check_installed, version
from sotopia_rl_data.costs.prices import Prices
from sotopia_rl_data.errors import AskingError, SotopiaDataError, UsageError
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Outcome

Item = TypeVar("Item")
Result = TypeVar("Result")
_SCHEME = "ray://"
_REACH_S = 10.0  # the longest wait for a connection to an address
_START_S = 90.0  # the longest wait for the first process on a node
_RETRIES = 3  # of an item whose node is lost
_AHEAD = 2  # so many times the workers are items under way
_LOGS = "see the cluster's logs of its workers"
_HEAD = "node:__internal_head__"  # a resource of the head node, of which there is 1


@dataclass(frozen=True, slots=True)
class RayWorkers:
    """The workers of a Ray cluster: at `address` ("ray://HOST:PORT"); or, where it is empty, of the cluster that
    RAY_ADDRESS names, that runs on this machine, or that is started here for as long as the run takes.

    A worker takes one CPU, and `gpus` GPUs (0.5: two share one). Raises UsageError.
    """

    address: str = ""
    gpus: float = 0.0

    @classmethod
    def parse(cls, text: str, gpus: float = 0.0) -> RayWorkers:
        """What `--on` names. Raises UsageError."""
        if text == "ray":
            return cls("", gpus)
        if not text.startswith(_SCHEME) or _place_of(text) is None:
            hint = "write --on ray, or --on ray://HOST:10001 for the cluster at this address"
            raise UsageError(f"{text!r} does not name workers.", hint)
        return cls(text, gpus)

    def ask(self, plan: Plan, ledger: Ledger, options: AskOptions, prices: Prices) -> Sequence[Outcome]:
        """Have the workers ask what the ledger does not answer. Raises what `driver.Run.ask` raises, and AskingError
        where the cluster cannot be used."""
        if options.batching is not None:
            raise UsageError("A batch needs no workers: one process submits it.", "leave --on or --batch out")
        if not isinstance(plan, DivisiblePlan):
            raise UsageError("What this command asks cannot be divided among workers.", "leave --on out")
        with _connected(self.address) as ray:
            pool = _RayPool(ray, self.gpus, does=_run_task)
            try:
                return Run(plan, ledger, options, prices, pool).ask()
            finally:
                pool.close()

    def map(
        self, function: Callable[[Item], Result], items: Callable[[int], Iterable[Item]]
    ) -> Iterator[tuple[Item, Result]]:
        """Each of the `items` for so many workers, with what `function` makes of it on some node; in the order in which
        they are ready. Some more are under way than there are workers, and no item is taken before it can be. An item
        whose node is lost is made anew. Raises AskingError where the cluster cannot be used, and what `function` raises
        of ours."""
        with _connected(self.address) as ray:
            pool = _RayPool(ray, self.gpus, does=_called, retries=_RETRIES)
            waiting, under_way = iter(items(pool.size)), dict[Any, Item]()
            try:
                while True:
                    for item in islice(waiting, _AHEAD * pool.size - len(under_way)):
                        under_way[pool.task.remote(function, item)] = item
                    if not under_way:
                        return
                    (ref, *_), _ = ray.wait(list(under_way))
                    yield under_way.pop(ref), _made(ray, ref)
            finally:
                _cancel(ray, under_way)


def _made(ray: Any, ref: Any) -> Any:
    """What a task returned. Raises what `_fault` says of its error."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        raise _fault(error) from error


def _fault(error: Exception) -> SotopiaDataError:
    """The error of ours that a task raised; AskingError for any other."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, SotopiaDataError):
        return cause
    return AskingError(f"A worker failed: {' '.join(str(cause or error).split())[:400]}.", _LOGS)


def _cancel(ray: Any, refs: Iterable[Any]) -> None:
    """Give up tasks that are under way."""
    for ref in refs:
        with suppress(Exception):  # the cluster may be gone, and Ray raises anything then
            ray.cancel(ref, force=True)


class _RayPool:
    """A `driver.Pool` of Ray tasks."""

    def __init__(self, ray: Any, gpus: float, does: Callable[..., Any], retries: int = 0) -> None:
        self._ray = ray
        have = ray.cluster_resources()
        self.size = int(have.get("CPU", 0))
        if gpus:
            self.size = min(self.size, int(have.get("GPU", 0) / gpus + 1e-9))
        if self.size < 1:
            needs = f"a CPU and {gpus:g} GPUs" if gpus else "a CPU"
            raise UsageError(f"No node of the Ray cluster has {needs} for a worker.", "add a node, or ask for less")
        _check_nodes(ray)
        # a task with a GPU would end its process, and with it what was loaded, after each call
        how = {"num_cpus": 1, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        self.task = ray.remote(**how, max_retries=retries, max_calls=0)(does)
        self._limiter: Any = None
        self._running: dict[Any, str] = {}

    def start(self, paces: Sequence[tuple[Pacing, int]]) -> None:
        """Start the limiter on the head node, which no run outlives."""
        actor = self._ray.remote(Limiter).options(num_cpus=0, max_concurrency=1_000, resources={_HEAD: 0.001})
        self._limiter = actor.remote(paces)

    def submit(self, task: ShardTask) -> None:
        """Have a shard asked about. Raises UsageError where a judge or policy cannot be sent to another machine."""
        from ray import cloudpickle

        try:
            pickled = cloudpickle.dumps(replace(task, environment={}))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise UsageError(
                f"A judge or policy of this run cannot be sent to workers: {error}.", "leave --on out, or name another"
            ) from error
        self._running[self.task.remote(plugins.sources(), task.environment, pickled, self._limiter)] = task.name

    def ended(self) -> list[tuple[str, Ended | Lost]]:
        """The shards that ended since the last call. Raises AskingError where a worker met a fault of the program."""
        ray = self._ray
        refs = list(self._running)
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [(self._running.pop(ref), self._result(ref)) for ref in done]

    def _result(self, ref: Any) -> Ended | Lost:
        errors = self._ray.exceptions
        try:
            ended: Ended = self._ray.get(ref)
        except errors.RayTaskError as error:
            raise _fault(error) from error
        except errors.RayError as error:
            return Lost(type(error).__name__)
        return ended

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the limiter returns. Raises AskingError where the head of the cluster is gone."""
        try:
            return self._ray.get(getattr(self._limiter, method).remote(*arguments))
        except self._ray.exceptions.RayError as error:
            raise AskingError(
                f"The head of the Ray cluster is gone: {type(error).__name__}.",
                "start it again, then run the same command again: what was answered is kept",
            ) from error

    def cancel(self) -> None:
        """Give up the shards that are under way."""
        _cancel(self._ray, self._running)

    def close(self) -> None:
        """Leave nothing behind in the cluster."""
        self.cancel()
        if self._limiter is not None:
            with suppress(Exception):  # as in `_cancel`
                self._ray.kill(self._limiter)


class _RayLimiter:
    """The limiter as a worker calls it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def permits(self, worker: str, group: int, tokens: float, most: int) -> list[int]:
        """As `Limiter.permits`."""
        numbers: list[int] = await self._actor.permits.remote(worker, group, tokens, most)
        return numbers

    async def tell(self, worker: str, told: Told) -> tuple[float | None, bool]:
        """As `Limiter.tell`."""
        answer: tuple[float | None, bool] = await self._actor.tell.remote(worker, told)
        return answer


def _run_task(modules: Mapping[str, str], environment: Mapping[str, str], pickled: bytes, limiter: Any) -> Ended:
    """What a Ray task does: set the variables and load the plug-ins that came along, both of which the plan needs to be
    unpickled, then ask."""
    os.environ.update(environment)
    plugins.install(modules, _plugin_folder())
    return ask_shard(pickle.loads(pickled), _RayLimiter(limiter))


def _called(function: Callable[[Item], Result], item: Item) -> Result:
    """What another Ray task does."""
    return function(item)


def _plugin_folder() -> Path:
    """A folder that is there as long as this process."""
    folder = TemporaryDirectory(prefix="sotopia-rl-data-plugins-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _about() -> tuple[str, str]:
    return sys.version.split()[0], version()


def _check_nodes(ray: Any) -> None:
    """Raises UsageError where a node lacks this program, or has another version of it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = _about()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {
        ray.remote(_about)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], False))
        .remote(): node["NodeManagerAddress"]
        for node in nodes
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_START_S)
    hint = f"install sotopia-rl-data {here[1]} on every node of the cluster, for the Python that Ray runs there"
    for ref in late:
        ray.cancel(ref, force=True)
    for ref in done:
        try:
            there = ray.get(ref)
        except ray.exceptions.NodeDiedError:
            continue
        except ray.exceptions.RayError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if "Error" in line), type(error).__name__)
            raise UsageError(f"The node {asked[ref]} cannot run sotopia-rl-data: {reason.strip()}.", hint) from error
        if there != here:
            raise UsageError(
                f"The node {asked[ref]} has sotopia-rl-data {there[1]} on Python {there[0]}, and this machine has "
                f"{here[1]} on Python {here[0]}.",
                hint,
            )
    if late and not done:
        raise AskingError(
            f"No node of the Ray cluster has started a worker within {_START_S:.0f} s.", "see `ray status` there"
        )


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected for as long as the block. Raises UsageError where Ray is missing, AskingError where
    there is no cluster at the address."""
    check_installed("--on ray", "ray", extra="ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():  # by the program that calls this library
        yield ray
        return
    place = _place_of(address or os.environ.get("RAY_ADDRESS", ""))
    if place is not None:
        _check_reachable(*place, is_variable=not address)
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # Ray raises many, some of them plain
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        where = f" at {address}" if address else ""
        raise AskingError(
            f"The Ray cluster{where} cannot be used: {reason[:300].rstrip('.')}.",
            "see that it runs, and has the versions of Ray and Python that are installed here",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _place_of(address: str) -> tuple[str, int] | None:
    """The host and port of `HOST:PORT` or `ray://HOST:PORT`; None for what has neither form."""
    with suppress(ValueError):  # what stands for the host or the port is neither
        parts = urlsplit(f"//{address.removeprefix(_SCHEME)}")
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None
    return None


def _check_reachable(host: str, port: int, is_variable: bool) -> None:
    """Raises AskingError at once where nothing listens, since Ray would try again for minutes."""
    try:
        socket.create_connection((host, port), _REACH_S).close()
    except OSError as error:
        raise AskingError(
            f"There is no Ray cluster at {host}:{port}{', which RAY_ADDRESS names' if is_variable else ''}: "
            f"{error.strerror or error}.",
            "give it the address of a cluster's head, or unset it for a cluster of this machine's CPUs"
            if is_variable
            else "name the address of its head, whose port for clients is 10001 unless it was started with another",
        ) from error
