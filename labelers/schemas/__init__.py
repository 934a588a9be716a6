"""Schemas: how an episode's score is traced back to its utterances, a family a file.

    offline.py   what shows the whole episode (direct, scaled, singular), and what asks nobody (uniform, discounted)
    turnwise.py  what shows views of it: direct-online, goal-progress, utterance-quality, only-response, leave-one-out
    rubric.py    what asks about dimensions of somebody's own: conversation-behaviour, `rubric:FILE.yaml`
    plugin.py    a schema of somebody's own, guarded
    phrasing.py  the wording and the transcript, as all of them put them to a judge
    answers.py   what an answer may look like

A schema owns its wording, its answer schema, its validation and what it yields. What its numbers become is a rule's
business (`sotopia_rl_data.rewards`), so that rules can be re-run without a call. A new schema is an entry in BUILTINS:
as a subclass of `Offline`, or as a `Turnwise` with two wording files of its own. One of your own is an object with the
members of `Schema`, or a class or function that makes one, named as `path/to/file.py:Name` or by an entry point in the
group `sotopia_rl_data.schemas`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

from sotopia_rl_data import plugins
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.labelers.judge import Question, Slot
from sotopia_rl_data.labelers.schemas.phrasing import Packing
from sotopia_rl_data.schema import Episode, Measure

GROUP = "sotopia_rl_data.schemas"
BUILTINS = {
    "direct": "sotopia_rl_data.labelers.schemas.offline:DIRECT",
    "scaled": "sotopia_rl_data.labelers.schemas.offline:SCALED",
    "singular": "sotopia_rl_data.labelers.schemas.offline:SINGULAR",
    "uniform": "sotopia_rl_data.labelers.schemas.offline:UNIFORM",
    "uniform-share": "sotopia_rl_data.labelers.schemas.offline:UNIFORM_SHARE",
    "discounted": "sotopia_rl_data.labelers.schemas.offline:DISCOUNTED",
    "direct-online": "sotopia_rl_data.labelers.schemas.turnwise:DIRECT_ONLINE",
    "goal-progress": "sotopia_rl_data.labelers.schemas.turnwise:GOAL_PROGRESS",
    "utterance-quality": "sotopia_rl_data.labelers.schemas.turnwise:UTTERANCE_QUALITY",
    "only-response": "sotopia_rl_data.labelers.schemas.turnwise:ONLY_RESPONSE",
    "leave-one-out": "sotopia_rl_data.labelers.schemas.turnwise:LEAVE_ONE_OUT",
    "conversation-behaviour": "sotopia_rl_data.labelers.schemas.rubric:conversation_behaviour",
}


class Schema(Protocol):
    """What is asked, what is accepted, what it yields.

    `id` stands in the `schema` column; `version` rises with every change of wording or meaning; `measure` says what a
    raw number is; `rule` names the default rule that turns it into a reward; without `needs_judge` nothing is asked.
    A schema whose numbers mean something without the episode's score says `needs_score = False` (default True); one
    that asks about other dimensions than SOTOPIA-EVAL's names them in `dimensions` (default: none).
    """

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def measure(self) -> Measure: ...
    @property
    def rule(self) -> str: ...
    @property
    def needs_judge(self) -> bool: ...

    def bounds(self, scale: int, dimension: str) -> tuple[float, float]:
        """The range [scale_min, scale_max] of a raw attribution on this dimension, levels running from 0 to `scale`."""
        ...

    def wording_sha256(self, scale: int = 3) -> str:
        """A hash of every wording that a question on this scale is made from."""
        ...

    def questions(
        self, episode: Episode, dimensions: Sequence[str], evaluator: str | None, packing: Packing, scale: int
    ) -> Iterator[Question]:
        """The calls that label this episode. Where an agent's score on a dimension is missing, none asks for it."""
        ...

    def read(self, question: Question, text: str) -> dict[Slot, float]:
        """The raw number of every slot of the question. Raises BadAnswer, with a readable reason, or gives them all."""
        ...


def schema(name: str) -> Schema:
    """The schema called `name`. Raises UsageError, naming the schemas there are; InputError where a rubric's file
    cannot be used."""
    if name.startswith("rubric:"):
        return _rubric(name.removeprefix("rubric:"))
    if name.endswith((".yaml", ".yml")):
        raise UsageError(f"{name} is a file, not a schema's name.", f"if it is a rubric, write rubric:{name}")
    found = plugins.load("schema", GROUP, name, BUILTINS)
    if name in BUILTINS:
        made: Schema = found() if isinstance(found, FunctionType) else found
        return made
    from sotopia_rl_data.labelers.schemas.plugin import PluginSchema, check_plugin

    return PluginSchema(check_plugin(name, found))


def _rubric(where: str) -> Schema:
    from sotopia_rl_data.labelers.schemas import rubric

    if not where:
        raise UsageError("rubric names no file.", f"write rubric:FILE.yaml; the shortest holds {rubric.SHORTEST}")
    return rubric.schema_of(rubric.read(Path(where)))


def own_dimensions(schema: Schema) -> tuple[str, ...]:
    """The dimensions that the schema asks about where they are not SOTOPIA-EVAL's; else none."""
    own: Any = getattr(schema, "dimensions", ())
    return tuple(own)
