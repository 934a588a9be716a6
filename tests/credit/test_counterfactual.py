"""`label --schema counterfactual`: turns re-played by a policy and judged at their ends, through the ledger."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from fixtures.places import ROOT
from fixtures.playing import Sampler, act

from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.cli.label import label
from sotopia_rl_data.cli.program import cli
from sotopia_rl_data.credit.branching import ReplaySettings, junctures
from sotopia_rl_data.credit.coalitions import ShapleySettings
from sotopia_rl_data.credit.crediting import label_by_replaying
from sotopia_rl_data.credit.making import make_games
from sotopia_rl_data.credit.replay_estimate import estimate_replaying
from sotopia_rl_data.errors import AskingError, BudgetSpent, Rejected, SotopiaDataError, UsageError
from sotopia_rl_data.fake_provider.running import Running, running
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.plan import Elicitation, episodes_of
from sotopia_rl_data.labelers.schemas import answers
from sotopia_rl_data.labelers.selection import Selection
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.request import Request
from sotopia_rl_data.rollouts.episode_run import MOST_DRAFTS, TRIES, Rules, TurnRequest
from sotopia_rl_data.schema import Agent, Episode, Turn
from sotopia_rl_data.store import Store, Version
from sotopia_rl_data.store.verify import verify
from sotopia_rl_data.tables import episode_table

TURN = 2


class Assayer:
    """A judge that gives 9 for gold at the turn in question, 3 for lead."""

    id = "assayer"

    async def answer(self, question: Question) -> str:
        said = question.episode.turns[TURN].text
        return json.dumps(answers.compose(question.answer_schema, lambda schema, path: _score(schema, said)))


def _score(schema: answers.Json, said: str) -> int | str:
    return (9 if said == "gold" else 3) if "enum" in schema else "weighed"


def tossing() -> Sampler:
    """A policy that says gold, lead, gold, lead in turn when it is drawn from, and leaves wherever it plays on."""

    def answer(request: Request) -> str:
        assert isinstance(request, TurnRequest)
        draw = request.sample // (MOST_DRAFTS * TRIES)
        return act(argument=("gold", "lead")[draw % 2]) if request.prompt.turn == TURN else act("leave", "")

    return Sampler("tossing", answer)


def dialogue(store: Store, *said: str) -> Version:
    """One dialogue of Ann and Bob, who speak in turn; who says nothing leaves."""
    agents = (Agent("ann", "Ann", goal="Find gold."), Agent("bob", "Bob", goal="Talk."))
    turns = tuple(Turn(t, agents[t % 2].agent, "speak" if text else "leave", text) for t, text in enumerate(said))
    episode = Episode("e", "mine", agents, turns, scenario="They dig.")
    with store.stage("lab/e") as stage:
        stage.write("episodes", "train", episode_table([episode]))
        return stage.commit({"kind": "episodes"}).version


def only(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["episode_id,agent,turn", *rows]) + "\n")
    return path


def replay(store: Store, policy: Sampler, judge: Assayer | None = None, **more: object):
    turn = Selection(frozenset({("e", None, TURN, None)}))
    judged = Elicitation(judges=[judge or Assayer()])
    return label_by_replaying(store, "lab/e", settings_of(policy), judged, only=turn, **more)


def settings_of(policy: Sampler) -> ReplaySettings:
    return ReplaySettings(policy=policy, partner=policy, alternatives=4, rollouts=2)


def test_credit_is_the_mean_difference_to_what_the_policy_would_have_said(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, "Hello.", "Hello.", "gold", "Oh.")
    report = replay(store, tossing())
    (one,) = report.estimates
    assert (one.episode_id, one.agent, one.turn, one.dimension, one.draws) == ("e", "ann", TURN, "goal", 4)
    assert one.estimate.credit == 3.0  # the draws are gold, lead, gold, lead: the differences 0, 6, 0, 6
    assert one.estimate.low < 3.0 < one.estimate.high
    version = report.committed.version
    assert verify(version).problems == ()
    (rows,) = (pq.read_table(path).to_pylist() for path in version.files("attributions")["train"])
    assert [(row["sample"], row["raw"], row["scale_min"], row["scale_max"]) for row in rows] == [
        (0, 0.0, -10.0, 10.0),
        (1, 6.0, -10.0, 10.0),
        (2, 0.0, -10.0, 10.0),
        (3, 6.0, -10.0, 10.0),
    ]
    (rewards,) = (pq.read_table(path).to_pylist() for path in version.files("rewards")["train"])
    credited = [row for row in rewards if row["raw_goal"] is not None]
    assert [(row["turn"], row["n_opinions"]) for row in credited] == [(TURN, 4)]
    assert credited[0]["raw_goal"] == pytest.approx(0.3)  # of the dimension's width


def test_the_same_words_are_played_on_by_the_same_requests(tmp_path: Path):
    store, policy = Store(tmp_path), tossing()
    dialogue(store, "Hello.", "Hello.", "gold", "Oh.")
    report = replay(store, policy)
    # 4 draws; after gold 8 plays (each of 4 x 2 numbers) and after lead 4, of one turn each
    assert len({request.key for request in policy.sent}) == len(policy.sent) == 4 + 8 + 4
    assert report.plays == 2 * 4 * 2
    plays = store.resolve(report.replays)
    assert sum(split.rows for split in plays.manifest.configs["episodes"].values()) == 16
    again = replay(store, policy)
    assert (again.asked, again.created, again.digest, again.replays) == (0, False, report.digest, report.replays)
    assert len(policy.sent) == 16


def test_a_policy_that_says_nothing_readable_has_failures_and_no_credit(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, "Hello.", "Hello.", "gold", "Oh.")
    mute = Sampler("mute", lambda request: "no")
    with pytest.raises(SotopiaDataError, match="drew no utterance"):
        replay(store, mute)
    assert store.names() == ["lab/e"]


class Unsure(Assayer):
    """It knows gold, and nothing else."""

    async def answer(self, question: Question) -> str:
        said = question.episode.turns[TURN].text
        return await Assayer.answer(self, question) if said == "gold" else "pardon?"


def test_what_the_judge_could_not_score_is_a_failure_that_can_be_asked_again(tmp_path: Path):
    store = Store(tmp_path)
    dialogue(store, "Hello.", "Hello.", "gold", "Oh.")
    report = replay(store, tossing(), Unsure())
    reason = "no pair of plays has both scores"
    assert (report.failures, report.unusable) == ({reason: 2}, 4)  # 2 draws of lead, each played on twice
    (rows,) = (pq.read_table(path).to_pylist() for path in report.committed.version.files("failures")["train"])
    told = [(row["episode_id"], row["agent"], row["turn"], row["dimension"], row["judge"]) for row in rows]
    assert told == [("e", "ann", TURN, "goal", "assayer")] * 2


def test_a_failure_is_in_the_split_of_its_episode(tmp_path: Path):
    store = Store(tmp_path)
    (train,) = episodes_of(dialogue(store, "Hello.", "Hello.", "gold", "Oh.").files("episodes")["train"])
    with store.stage("lab/e") as stage:
        stage.write("episodes", "train", episode_table([train]))
        stage.write("episodes", "test", episode_table([replace(train, episode_id="f", environment_id="other")]))
        stage.commit({"kind": "episodes"})
    judged, third = Elicitation(judges=[Unsure()]), Selection(frozenset((e, None, TURN, None) for e in "ef"))
    report = label_by_replaying(store, "lab/e", settings_of(tossing()), judged, only=third)
    kept = report.committed.version.files("failures").items()
    ids = {
        split: {row["episode_id"] for path in paths for row in pq.read_table(path).to_pylist()} for split, paths in kept
    }
    assert ids == {"train": {"e"}, "test": {"f"}}


def test_where_no_play_ends_that_is_said(tmp_path: Path):
    def answer(request: TurnRequest) -> str:
        if request.prompt.turn > TURN:
            raise Rejected("The provider refuses.")
        return act(argument="lead")

    store = Store(tmp_path)
    dialogue(store, "Hello.", "Hello.", "gold", "Oh.")
    with pytest.raises(AskingError, match="No play came to an end: "):
        replay(store, Sampler("mute", answer))
    assert store.names() == ["lab/e"]


def test_turns_after_the_end_that_the_rules_give_are_left_out_and_counted(tmp_path: Path):
    store, policy = Store(tmp_path), tossing()
    dialogue(store, "Hello.", "", "gold", "Oh.")
    judged = Elicitation(judges=[Assayer()])
    estimate = estimate_replaying(store, "lab/e", settings_of(policy), judged, options=AskOptions())
    assert (estimate.turns, estimate.left_out) == (2, 2)
    with pytest.raises(UsageError, match="the dialogue was over before every turn that was named"):
        replay(store, policy)


def test_what_comes_after_the_turns_that_are_named_is_not_played(tmp_path: Path):
    (episode,) = episodes_of(dialogue(Store(tmp_path), *["Hello."] * 4).files("episodes")["train"])
    turns = [*episode.turns[:3], replace(episode.turns[3], agent="ann")]  # Ann speaks twice
    mixed = replace(episode, turns=tuple(turns))
    assert [one.turn for one in junctures(mixed, "train", turns[:3], Rules(turns=3))] == [0, 1, 2]
    with pytest.raises(UsageError, match="in turn 3 ann acts"):
        junctures(mixed, "train", turns, Rules())


def test_a_policy_that_also_judges_is_counted_once_in_each_part(tmp_path: Path):
    store, policy, judge = Store(tmp_path), tossing(), Assayer()
    dialogue(store, "Hello.", "Hello.", "gold")
    judge.id = policy.id
    judged = Elicitation(judges=[judge])
    estimate = estimate_replaying(store, "lab/e", settings_of(policy), judged, options=AskOptions())
    plays = 3 * 4 * 2 * 2
    assert [line.asked for line in estimate.lines] == [3 * 4 + (2 + 1) * 4 * 2 * 2, plays]


def test_a_dry_run_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    dialogue(Store(tmp_path), "Hello.", "Hello.", "gold")
    models = ["--policy", "gpt-4o-mini", "--judge", "gpt-4o"]
    asked = ["--schema", "counterfactual", *models, "--store", str(tmp_path), "--dry-run", "--json"]
    done = invoke("label", "lab/e", *asked)
    assert done.exit_code == 0, done.exception
    assert [line["judge"] for line in json.loads(done.stdout)["judges"]] == ["gpt-4o-mini", "gpt-4o"]


# --- by the command, over a loopback provider -------------------------------------------------------------------------


SIZES = {"counterfactual": ("--alternatives", "3", "--rollouts", "2"), "shapley": ("--samples", "2")}


def command(store: Path, provider: Running, chosen: Path, *more: str, schema: str = "counterfactual") -> list[str]:
    model, judge = (f"openai:{name}@{provider.openai_url}" for name in ("policy", "judge"))
    asked = ["--schema", schema, "--policy", model, "--judge", judge, "--only", str(chosen)]
    return ["label", "lab/games", *asked, *SIZES[schema], "--store", str(store), *more]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize("schema", SIZES)
def test_killed_in_the_midst_it_repeats_nothing_but_what_was_in_flight(schema: str, tmp_path: Path):
    chosen = only(tmp_path / "only.csv", "game-0-00000,,1", "game-0-00001,,2")
    make_games(Store(tmp_path / "store"), "lab/games", 2)
    with running(latency=0.1) as provider:
        words = command(tmp_path / "store", provider, chosen, "--json", schema=schema)
        for requests in (8, 24):
            process = subprocess.Popen(
                [sys.executable, "-m", "sotopia_rl_data", *words],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            while provider.log()["requests"] < requests and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        time.sleep(0.5)  # what was in flight lands, at nobody's
        paid = provider.log()["answered"]
        with Ledger(tmp_path / "store" / ".ledger") as ledger:
            kept = sum(1 for _ in ledger.scan())
        done = invoke(*words)
        assert done.exit_code == 0, done.exception
        answered = provider.log()["answered"]
    result = json.loads(done.stdout)
    with Ledger(tmp_path / "store" / ".ledger") as ledger:
        keys = [attempt.key for attempt in ledger.scan()]
    assert len(set(keys)) == len(keys) == kept + result["asked"]  # nothing that was kept is asked again
    assert answered == paid + result["asked"]
    if schema == "counterfactual":
        assert (result["turns"], result["plays"]) == (2, 24)
    assert len(result["estimates"]) == result["turns"]
    assert result["hits"] >= kept
    assert not list((tmp_path / "store").glob(".staging/*--*"))


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "counts"), [("counterfactual", (1, 12)), ("shapley", (6, 2 * 12))])
def test_the_cap_holds_over_draws_plays_and_judges_and_the_dry_run_sends_nothing(
    schema: str, counts: tuple[int, int], tmp_path: Path
):
    chosen = only(tmp_path / "only.csv", "game-0-00000,,0")
    make_games(Store(tmp_path / "store"), "lab/games", 1)
    prices = tmp_path / "prices.yaml"
    line = "[10, 1, 10, 100]"
    prices.write_text(f"as_of: 2026-11-01\nhosts: {{127.0.0.1: {{policy: {line}, judge: {line}}}}}\n")
    with running() as provider:
        limits = ("--prices", str(prices), "--max-tokens", "400")
        words = command(tmp_path / "store", provider, chosen, *limits, schema=schema)
        told = invoke(*words, "--dry-run", "--json")
        assert told.exit_code == 0, told.exception
        assert provider.log()["requests"] == 0
        estimate = json.loads(told.stdout)
        assert (estimate["turns"], estimate["plays"]) == counts
        assert estimate["total"] > 0
        done = invoke(*words, "--budget", "0.1", "--json")
        assert isinstance(done.exception, BudgetSpent)
        usage = provider.log()["usage"]
        whole = invoke(*words, "--budget", "50", "--json")
        assert whole.exit_code == 0, whole.exception
        screen = invoke(*words, "--budget", "50").output
    assert screen.index("the largest, in points") < screen.index("next:")
    assert 0 < (usage["input"] * 10 + usage["output"] * 100) / 1e6 <= 0.1
    assert json.loads(whole.stdout)["bill"]["total"] <= 50


def test_the_help_says_the_defaults_of_the_settings():
    told = {option.name: getattr(option, "help", "") for option in label.params}
    usual = {field.name: field.default for kind in (Rules, ReplaySettings) for field in fields(kind)}
    for name in ("alternatives", "rollouts", "turns"):
        assert f"[default: {usual[name]}" in told[name]
    orders = next(field.default for field in fields(ShapleySettings) if field.name == "samples")
    assert f"({orders} if not given)" in told["samples"]


def test_what_is_wrong_is_a_sentence_and_asks_nobody(tmp_path: Path):
    store = Store(tmp_path / "store")
    make_games(store, "lab/games", 1)
    dialogue(store, "Hello.", "Hello.", "gold")
    counterfactual = ("--schema", "counterfactual", "--judge", "lexical")
    shapley, scripted = ("--schema", "shapley", "--judge", "lexical"), ("--policy", "scripted:warm")
    nobody = only(tmp_path / "nobody.csv", "game-9-00000,,1")
    wrong = {
        "No policy is named": [*counterfactual],
        "does not": ["--judge", "lexical", *scripted],
        "--preset does not apply": [*counterfactual, *scripted, "--preset", "goal-only"],
        "--samples does not apply": [*counterfactual, *scripted, "--samples", "2"],
        "--ask does not apply": [*counterfactual, *scripted, "--ask", "packed"],
        "--ask-only does not apply": [*counterfactual, *scripted, "--ask-only"],
        "names no turn": [*counterfactual, *scripted, "--only", str(nobody)],
        "No judge is named": ["--schema", "counterfactual", *scripted],
        "is over by then": [*counterfactual, *scripted, "--turns", "2"],
        "are the most": [*counterfactual, *scripted, "--alternatives", "50", "--rollouts", "50"],
        "is not a policy": [*counterfactual, "--policy", "nobody"],
        "--alternatives does not apply to the schema 'shapley'": [*shapley, *scripted, "--alternatives", "3"],
        "--partner does not apply": [*shapley, *scripted, "--partner", "scripted:firm"],
        "give no interval": [*shapley, *scripted, "--samples", "1"],
        "No policy is named to": shapley,
    }
    for sentence, arguments in wrong.items():
        done = invoke("label", "lab/games", *arguments, "--store", str(store.root))
        assert isinstance(done.exception, SotopiaDataError), (sentence, done.output)
        assert sentence in done.exception.message
        assert done.exception.hint
    assert store.names() == ["lab/e", "lab/games"]
