"""Run a study: what is there is not made again, and the rest is made in order, under one budget.

What a step made is noted in the study's folder once it is there, under the step's identity: its name, its settings and
the digests of what it was made from. So a run that was killed goes on with the step in which it was, which goes on by
itself: judges and policies from the ledger, training from its last checkpoint. A step some of whose calls got no answer
is made again, from the ledger as far as there are answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sotopia_rl_data import locks
from sotopia_rl_data.asking.estimate import Estimate
from sotopia_rl_data.errors import InputError, NotFound, UsageError
from sotopia_rl_data.hashing import sha256_of
from sotopia_rl_data.outputs import aside
from sotopia_rl_data.study.steps import DatasetStep, EvaluateStep, Inputs, StepResult, StudyStep, Workshop

_LOCK = ".lock"
_FORM = 1  # a higher number makes every step anew
Announce = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class StepPreview:
    """What a run would do about one step. `state`: there, to do, or to do again (some calls got no answer). `waits`
    names the steps to be done before it; `asked` calls would be sent, for `usd` (None: not known before these steps are
    done, or without a price), at most `most`."""

    step: str
    state: str
    ref: str
    waits: tuple[str, ...]
    asked: int | None
    usd: float | None
    most: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run_steps(steps: Sequence[StudyStep], work: Workshop, announce: Announce) -> dict[str, StepResult]:
    """Make what is missing; the results by step. `announce` is told of each step that is begun. Raises what the steps'
    own functions raise; what was made stays."""
    results: dict[str, StepResult] = {}
    for step in steps:
        if isinstance(step, DatasetStep) and step.source.ref:
            step.run(work, {}, "")  # a dataset that is not there is known before anything is made
    for step, _, made in _known(steps, work):
        if made is None or _is_to_repeat(work, made):
            step.check_keys()  # not after what is trained before it
    with _alone(work.folder):
        spent = sum(known.spent for _, _, known in _known(steps, work) if known)
        for step in steps:
            inputs = {name: results[name] for name in step.needs}
            key = _key(step, inputs)
            made = _noted(work, step, key)
            if made is None or _is_to_repeat(work, made):
                announce(step.name)
                before = made.spent if made else 0.0
                made = step.run(work.spending(spent - before), inputs, key)
                spent += made.spent - before
                _note(work, step, key, made)
            results[step.name] = made
    return results


def preview(steps: Sequence[StudyStep], work: Workshop) -> list[StepPreview]:
    """What a run would make, ask and cost. Sends nothing, and writes nothing into the store."""
    results: dict[str, StepResult] = {}
    found = []
    for step, inputs, made in _known(steps, work):
        if made and not _is_to_repeat(work, made):
            results[step.name] = made
            found.append(StepPreview(step.name, "there", made.ref, (), 0, 0.0, 0.0))
            continue
        waits = tuple(name for name in step.needs if name not in results)
        estimate = step.estimate(work, inputs)
        asked, usd, most = _figures(step, estimate)
        state = "to do again" if made else "to do"
        found.append(StepPreview(step.name, state, made.ref if made else "", waits, asked, usd, most))
    return found


def _figures(step: StudyStep, estimate: Estimate | None) -> tuple[int | None, float | None, float | None]:
    if estimate is not None:
        return estimate.asked, estimate.total, estimate.most
    if isinstance(step, EvaluateStep):
        return step.calls, None, None
    return (None, None, None) if step.asks else (0, 0.0, 0.0)


def _known(steps: Sequence[StudyStep], work: Workshop) -> Iterator[tuple[StudyStep, Inputs, StepResult | None]]:
    """Each step with what is there of its inputs, and what it made, if that is noted."""
    results: dict[str, StepResult] = {}
    for step in steps:
        inputs = {name: results[name] for name in step.needs if name in results}
        made = None
        if len(inputs) == len(set(step.needs)):
            if isinstance(step, DatasetStep) and step.source.ref:
                made = step.run(work, inputs, "")
            else:
                made = _noted(work, step, _key(step, inputs))
        if made:
            results[step.name] = made
        yield step, inputs, made


def _key(step: StudyStep, inputs: Inputs) -> str:
    """The identity of what a step makes."""
    return sha256_of([_FORM, step.name, step.settings(), {name: made.digest for name, made in inputs.items()}])


def _place(work: Workshop, step: StudyStep, key: str) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in step.name)
    return work.folder / "steps" / f"{name}-{key[:16]}.json"


def _is_to_repeat(work: Workshop, made: StepResult) -> bool:
    return bool(made.unreachable or (work.options.retry_failed and made.failures))


def _noted(work: Workshop, step: StudyStep, key: str) -> StepResult | None:
    """What the step made, if it is still there."""
    try:
        known = json.loads(_place(work, step, key).read_text(encoding="utf-8"))
        made = StepResult(**known["made"])
        if known["key"] != key:
            return None
        is_there = Path(made.ref).is_dir() or made.facts or work.store.resolve(made.ref).digest == made.digest
        return made if is_there else None
    except (OSError, ValueError, KeyError, TypeError, NotFound, UsageError):
        return None


def _note(work: Workshop, step: StudyStep, key: str, made: StepResult) -> None:
    if isinstance(step, DatasetStep) and step.source.ref:
        return  # a reference is looked up each time
    place = _place(work, step, key)
    place.parent.mkdir(parents=True, exist_ok=True)
    with aside(place) as beside:
        beside.write_text(json.dumps({"key": key, "made": asdict(made)}, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the study's folder: two runs at once would train into the same folders. Where nothing was made,
    no new folder stays. Raises UsageError, InputError."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        handle = _held(folder)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be written: {error.strerror}.", "name another folder: --runs DIR"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # another run began there meanwhile
            if [path.name for path in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()
                for path in new:
                    path.rmdir()
        os.close(handle)


def _held(folder: Path) -> int:
    """The lock of a folder, which is made if it is missing."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = locks.open_lock(folder / _LOCK)
        except (FileNotFoundError, FileExistsError):
            if folder.is_file() or folder.is_symlink() or (folder / _LOCK).is_symlink():
                raise
            continue  # another run made nothing and took the folder away
        try:
            if not locks.take_where_possible(handle):
                raise UsageError(f"Another run works on this study in {folder}.", "wait until it has ended")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(folder / _LOCK), os.fstat(handle)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
