"""--version with a number that is taken: nobody is asked for what could not be kept; the same again changes nothing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.flat_calls import audit, evaluate, label, plan_of, rollout
from fixtures.labelling import BOAT, Highest, Scorer, Sulking, boats, put
from fixtures.playing import Sampler, act, brief, scenes

from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.errors import UsageError, VersionExists
from sotopia_rl_data.store import Store

LABELS, EPISODES = "lab/episodes-rewards", "lab/episodes"

# A judge whose answers are unusable until there is a file `usable`.
LATE = """
import json
from pathlib import Path
from sotopia_rl_data.labelers.schemas import answers
class Late:
    id = "late"
    async def answer(self, question):
        fill = lambda form, path: max(form["enum"])
        return json.dumps(answers.compose(question.answer_schema, fill)) if Path("usable").exists() else "{}"
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put(store, [BOAT])
    return store


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "judge", "taken"), [(label, Highest, f"{LABELS}@v1.0.0"), (evaluate, Scorer, f"{EPISODES}@v1.1.0")]
)
def test_nobody_is_asked_for_other_content_of_a_version_and_the_same_command_is_no_change(
    store: Store, run: Any, judge: Any, taken: str
):
    name, _, version = taken.partition("@")
    first = judge()
    done = run(store, EPISODES, judges=[first], version=version)
    assert (done.version, done.created, done.asked) == (taken, True, first.calls)
    there, other = store.versions(name), judge("other")
    with pytest.raises(VersionExists, match=f"{taken} exists already") as refused:
        run(store, EPISODES, judges=[first, other], version=version)
    assert f"and {first.calls} calls are still to be made" in refused.value.message
    assert "leave --version out" in refused.value.hint
    assert (other.calls, store.versions(name)) == (0, there)
    again = judge()
    same = run(store, EPISODES, judges=[again], version=version)
    assert (same.version, same.digest, same.created, same.hits) == (taken, done.digest, False, first.calls)
    assert again.calls == 0


@pytest.mark.slow
def test_answers_are_not_asked_for_again_for_a_version_that_was_made_without_them(store: Store):
    judge = Sulking("a")
    done = label(store, EPISODES, judges=[judge], version="v1.0.0")
    before = judge.calls
    judge.sulks_about.clear()
    with pytest.raises(VersionExists, match="3 calls are still to be made"):
        label(store, EPISODES, judges=[judge], version="v1.0.0", retry_failed=True)
    assert judge.calls == before
    assert label(store, EPISODES, judges=[judge], version="v1.0.0").digest == done.digest
    assert label(store, EPISODES, judges=[judge], retry_failed=True).version == f"{LABELS}@v1.1.0"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["lab/episodes", "--judge", "late.py:Late", "--version", "v1.0.0", "--store", "store"],
        ["--version=v1.0.0", "--judge", "late.py:Late", "--store=store", "--", "lab/episodes"],
    ],
)
def test_the_printed_command_that_asks_again_makes_the_next_version(
    words: list[str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("late.py").write_text(LATE)
    first = CliRunner().invoke(cli, ["label", *words])
    Path("usable").touch()
    (line,) = (line for line in first.stderr.splitlines() if "--retry-failed" in line)
    again = CliRunner().invoke(cli, shlex.split(line, comments=True)[1:])
    assert (first.exit_code, again.exit_code, again.exception) == (3, 0, None), again.stderr
    assert store.versions(LABELS) == ["v1.0.0", "v1.1.0"]


@pytest.mark.slow
def test_an_audit_asks_nobody_for_a_number_that_is_none_or_is_taken(store: Store):
    how: Any = {"dimensions": ["goal"], "probes": ["order"]}
    put(store, boats(4), "lab/many")
    first, other, again = Highest(), Highest("other"), Highest()
    with pytest.raises(UsageError, match="is not a version"):
        audit(store, "lab/many", first, version="first", **how)
    assert first.calls == 0
    done = audit(store, "lab/many", first, version="v1.0.0", **how)
    with pytest.raises(VersionExists, match=r"lab/many-audit@v1\.0\.0 exists already"):
        audit(store, "lab/many", other, version="v1.0.0", **how)
    assert audit(store, "lab/many", again, version="1.0.0", **how).digest == done.digest
    assert (other.calls, again.calls) == (0, 0)


def test_nobody_plays_for_other_episodes_of_a_version_and_the_same_ones_are_no_change(store: Store):
    """One of the policies answers twice in a way that cannot be read, another time in none that can."""
    odd = iter(["?", "?", act(), "?", "?", "?"])
    first = Sampler("a", lambda request: next(odd, act("leave", "")))
    done = rollout(store, plan_of(scenes(2), a=first, b=brief()), "lab/play", version="v1.0.0")
    more = Sampler("a")
    with pytest.raises(VersionExists, match=r"lab/play@v1\.0\.0 exists already, and 1 episodes are still to be made"):
        rollout(store, plan_of(scenes(3), a=more, b=brief()), "lab/play", version="v1.0.0")
    again = rollout(store, plan_of(scenes(2), a=more, b=brief()), "lab/play", version="v1.0.0")
    assert (again.created, again.digest, more.sent) == (False, done.digest, [])
    assert store.versions("lab/play") == ["v1.0.0"]


def test_where_all_is_answered_other_content_is_refused_all_the_same(store: Store):
    label(store, EPISODES, judges=[Highest()], version="v1.0.0")
    again = Highest()
    with pytest.raises(VersionExists, match="exists with other content"):
        label(store, EPISODES, judges=[again], version="v1.0.0", preset="goal-only", dimensions=["goal"])
    assert (again.calls, store.versions(LABELS)) == (0, ["v1.0.0"])
