"""rollout(): scenes and two policies in, a version of episodes out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.flat_calls import plan_of, rollout
from fixtures.playing import Longest, Sampler, act, brief, episodes, rows, scenes
from fixtures.records import lines

from sotopia_rl_data.asking.ask import capped
from sotopia_rl_data.asking.pacing import Pacing
from sotopia_rl_data.asking.plan import AskOptions
from sotopia_rl_data.costs.budget import Budget
from sotopia_rl_data.costs.price import Price
from sotopia_rl_data.costs.prices import Prices, load
from sotopia_rl_data.errors import AskingError, BudgetSpent, UsageError
from sotopia_rl_data.exporters.exporting import export_sotopia
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.ledger.ledger import Ledger
from sotopia_rl_data.ledger.lookup import Settled
from sotopia_rl_data.prompts import Layout, load_template, prompts_of
from sotopia_rl_data.request import Target
from sotopia_rl_data.rollouts import HARD, Scene, TurnPrompt
from sotopia_rl_data.rollouts.episode_run import MOST_SEED, EpisodeRun
from sotopia_rl_data.rollouts.estimate import RolloutEstimate, estimate_rollout
from sotopia_rl_data.rollouts.rollout import EpisodeChains
from sotopia_rl_data.rollouts.scenarios import scenes_of
from sotopia_rl_data.store import Store

OPENAI, ANTHROPIC = "openai:sim-a@", "anthropic:sim-b@"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.slow
def test_with_nothing_named_two_scripted_policies_play_the_bundled_scenes(store: Store, tmp_path: Path):
    done = rollout(store, plan_of(scenes_of()), "demo/play")
    assert (done.planned, done.episodes, done.abandoned, done.failed_turns, done.hits) == (13, 13, 0, 0, 0)
    assert done.asked == done.utterances > 100
    played = episodes(store, "demo/play")
    assert {e.source for e in played} == {"rollout"}
    assert {e.dialect for e in played} == {"legacy"}
    assert {e.models for e in played} == {("unknown", "scripted:warm", "scripted:firm")}
    assert all([a.model for a in e.agents] == ["scripted:warm", "scripted:firm"] for e in played)
    again = rollout(store, plan_of(scenes_of()), "demo/play")
    assert (again.created, again.asked, again.hits) == (False, 0, done.asked)
    elsewhere = rollout(Store(tmp_path / "other"), plan_of(scenes_of()), "other/name")
    assert elsewhere.digest == done.digest


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["single", "chat"])
def test_each_prompt_and_completion_is_kept_as_it_was_served(layout: Layout, store: Store):
    rollout(store, plan_of(scenes(2), a=brief(), b=Sampler("s"), layout=layout), "lab/play")
    served = {(r["episode_id"], r["agent"], r["turn"]): r for r in rows(store, "lab/play", "SELECT * FROM rewards")}
    again = {
        (episode.episode_id, agent, turn): (prompt, completion)
        for episode in episodes(store, "lab/play")
        for agent, turn, prompt, completion in prompts_of(episode, layout)
    }
    assert served.keys() == again.keys()
    for key, (prompt, _) in again.items():
        assert served[key]["prompt"] == prompt
        assert served[key]["reward"] is None
    said = [r["completion"][0]["content"] for r in served.values()]
    assert act(argument="This is my turn 0.") in said


@pytest.mark.slow
def test_swap_plays_each_scene_with_the_policies_in_each_others_place(store: Store):
    done = rollout(store, plan_of(scenes(3), a=brief(), b=Sampler("s"), swap=True, repeat=2), "lab/play")
    assert done.episodes == 12
    seats = sorted((e.environment_id, *(a.model for a in e.agents)) for e in episodes(store, "lab/play"))
    places = [scene.environment.environment_id for scene in scenes(3)]
    assert seats == sorted([(p, "brief", "s") for p in places] * 2 + [(p, "s", "brief") for p in places] * 2)


@pytest.mark.slow
def test_a_repetition_and_another_seed_draw_other_answers_and_a_second_run_none(store: Store):
    first = Sampler("s")
    rollout(store, plan_of(scenes(1), a=first, b=first, repeat=2, turns=2), "lab/play")
    assert len({r.key for r in first.sent}) == len(first.sent) == 4
    one, two = episodes(store, "lab/play")
    assert one.turns[0].text != two.turns[0].text
    assert rollout(store, plan_of(scenes(1), a=first, b=first, repeat=2, turns=2), "lab/play").asked == 0
    other = rollout(store, plan_of(scenes(1), a=first, b=first, repeat=2, turns=2, seed=1), "lab/play")
    assert (other.asked, other.version) == (4, "lab/play@v1.1.0")
    assert {r.sample for r in first.sent} == {0, 192, 192_000, 192_192}


def test_an_answer_that_cannot_be_read_is_drawn_again(store: Store):
    def answer(request) -> str:
        return "Let me think …" if request.sample % 3 < 2 else act("leave", "")

    drawn = Sampler("s", answer)
    done = rollout(store, plan_of(scenes(1), a=drawn, b=brief()), "lab/play")
    assert (done.failed_turns, done.failures) == (0, {})
    assert [r.sample for r in drawn.sent] == [0, 1, 2]
    (episode,) = episodes(store, "lab/play")
    assert [(t.action_type, t.failed) for t in episode.turns] == [("leave", False)]


def test_what_is_never_readable_is_a_flagged_no_op_and_a_failure_and_no_completion(store: Store):
    done = rollout(store, plan_of(scenes(1), a=Sampler("mute", lambda _: "…"), b=brief(9)), "lab/play")
    assert done.abandoned == 0
    assert done.failed_turns == 10
    (episode,) = episodes(store, "lab/play")
    mine = episode.agents[0].agent
    assert {(t.action_type, t.failed) for t in episode.turns if t.agent == mine} == {("none", True)}
    kept = rows(store, "lab/play", "SELECT agent, turn, judge, reason, call_id FROM failures ORDER BY turn")
    assert [(r["agent"], r["turn"], r["judge"]) for r in kept] == [(mine, t, "mute") for t in range(0, 20, 2)]
    assert {r["reason"] for r in kept} == {
        "3 answers could not be read: There is no JSON object with an action_type in it."
    }
    assert rows(store, "lab/play", f"SELECT * FROM rewards WHERE agent = '{mine}'") == []


THOUGHTS = ("<think>maybe {}</think>\n\n", "maybe {}</think>\n", "[THINK]maybe {}[/THINK]", "")


@pytest.mark.slow
@pytest.mark.parametrize("thought", THOUGHTS)
def test_an_action_drafted_in_a_thought_is_neither_played_nor_kept(thought: str, store: Store, tmp_path: Path):
    before = thought.format(act("leave", ""))
    thinking = Sampler("s", lambda request: before + act(argument=request.key[:8]))
    done = rollout(store, plan_of(scenes_of(), a=thinking, b=thinking, turns=6), "lab/play")
    assert (done.episodes, done.failed_turns, done.asked) == (13, 0, 13 * 6)
    assert done.ended == {"The conversation is too long": 13}
    assert {len(one.turns) for one in episodes(store, "lab/play")} == {6}
    plain = Sampler("s", lambda request: act(argument=request.key[:8]))
    rollout(Store(tmp_path / "plain"), plan_of(scenes_of(), a=plain, b=plain, turns=6), "lab/play")
    assert store_digest(store.root, "rewards") == store_digest(tmp_path / "plain", "rewards")
    with Ledger(store.root / ".ledger") as ledger:
        assert {one.text for one in ledger.scan()} == {before + act(argument=one.key[:8]) for one in thinking.sent}


def test_a_thought_that_was_cut_off_is_drawn_again(store: Store):
    def answer(request) -> str:
        draft = f"<think>maybe {act('leave', '')}"
        return draft if request.sample % 3 == 0 else f"{draft}</think>{act(argument='Well.')}"

    done = rollout(store, plan_of(scenes(1), a=Sampler("s", answer), b=brief(9), turns=4), "lab/play")
    assert (done.failed_turns, done.asked) == (0, 6)
    (episode,) = episodes(store, "lab/play")
    assert [turn.text for turn in episode.turns] == ["Well.", "This is my turn 0.", "Well.", "This is my turn 1."]


@pytest.mark.slow
def test_drafts_are_scored_and_kept_without_their_thoughts(store: Store):
    def answer(request) -> str:
        draft = request.sample // 3
        return f"<think>{'hm ' * (9 - 4 * draft)}{act('leave', '')}</think>{act(argument='very ' * draft + 'well')}"

    plan = plan_of(scenes(1), a=Sampler("s", answer), b=brief(9), turns=1, best_of=3, scorer=Longest())
    rollout(store, plan, "lab/best")
    (kept,) = rows(store, "lab/best", "SELECT completion[1].content AS text FROM rewards")
    assert kept["text"] == act(argument="very very well")
    scored = rows(store, "lab/best", "SELECT raw FROM attributions ORDER BY sample")
    assert [one["raw"] for one in scored] == [0.44, 0.49, 0.54]


@pytest.mark.slow
def test_three_people_play_and_whisper_in_the_newest_dialect(store: Store, tmp_path: Path):
    two = scenes(1)[0]
    third = scenes(2)[1].people[0]
    trio = Scene(replace(two.environment, goals=(*two.environment.goals, "Listen.")), (*two.people, third))

    async def whisper(asked: TurnPrompt) -> str:
        return act(argument="Psst.", to=[next(p.name for p in trio.people if p.agent != asked.agent)])

    aloud = Sampler("aloud", lambda _: act(to=[]))
    plan = plan_of([trio], a=whisper, b=aloud, dialect="head", turns=6, swap=True)
    done = rollout(store, plan, "lab/trio")
    assert (done.episodes, done.failures) == (3, {})
    for episode in episodes(store, "lab/trio"):
        (place,) = {t.turn % 3 for t in episode.turns if t.to}
        assert episode.agents[place].model == "whisper"
        assert len({o.agent for o in episode.observations if "Psst." in o.text}) == 2
    report = export_sotopia(store.resolve("lab/trio"), tmp_path / "out")
    assert (report.episodes, report.differs) == (3, {"turns.failed": 3})
    with pytest.raises(UsageError, match="is for two agents; the scene has 3"):
        plan_of([trio])


@pytest.mark.slow
def test_a_policy_that_fails_loses_its_episode_alone_and_only_that_is_asked_again(store: Store):
    chosen = scenes(4)
    broken = {"turn": 2}

    async def policy(asked: TurnPrompt) -> str:
        if asked.turn == broken["turn"] and asked.agent == chosen[2].agents[0]:
            raise LookupError("the weights are gone")
        return act()

    policy.id = "mine"  # type: ignore[attr-defined]
    lost = rollout(store, plan_of(chosen, a=policy, b=brief()), "lab/play")
    assert (lost.episodes, lost.abandoned) == (3, 1)
    (failure,) = rows(store, "lab/play", "SELECT * FROM failures")
    assert (failure["turn"], failure["judge"]) == (2, "mine")
    assert failure["reason"] == "The policy mine failed: LookupError: the weights are gone"
    broken["turn"] = -1
    whole = rollout(store, plan_of(chosen, a=policy, b=brief()), "lab/play")
    assert (whole.episodes, whole.abandoned, whole.version) == (4, 0, "lab/play@v1.1.0")
    assert whole.asked == 4  # its third turn and what came after; the first two were known
    assert whole.hits == lost.asked


@pytest.mark.slow
def test_a_callable_that_answers_by_its_episode_is_asked_in_each(store: Store):
    async def policy(asked: TurnPrompt) -> str:
        return act(argument=asked.episode_id)

    for turns in (1, 2):  # other rules, other episodes, the same first prompt
        rollout(store, plan_of(scenes(1), a=policy, b=policy, turns=turns), "lab/play")
        (episode,) = episodes(store, "lab/play")
        assert {t.text for t in episode.turns} == {episode.episode_id}


def test_where_no_episode_comes_to_an_end_nothing_is_committed(store: Store):
    async def policy(asked: TurnPrompt) -> str:
        raise ValueError("no")

    with pytest.raises(AskingError, match="No episode came to an end: The policy policy failed: ValueError: no"):
        rollout(store, plan_of(scenes(2), a=policy, b=brief()), "lab/play")
    assert store.versions("lab/play") == []


@pytest.mark.slow
def test_two_providers_play_against_each_other(store: Store):
    with running() as provider:
        plan = plan_of(scenes(3), a=OPENAI + provider.openai_url, b=ANTHROPIC + provider.url, swap=True)
        done = rollout(store, plan, "lab/play")
        assert (done.episodes, done.failures) == (6, {})
        assert provider.log()["requests"] == done.asked == done.utterances
        provider_tokens = provider.log()["usage"]["input"]
    assert {tuple(a.model for a in e.agents) for e in episodes(store, "lab/play")} == {
        ("sim-a", "sim-b"),
        ("sim-b", "sim-a"),
    }
    recipe = store.resolve("lab/play").manifest.recipe["rollout"]
    assert recipe["a"] == {"model": "sim-a", "provider": "openai", "sampling": {"temperature": 0.7}}
    assert provider.url not in str(recipe)
    assert [line.judge for line in done.bill.lines] == ["sim-a", "sim-b"]
    assert sum(line.usage.input for line in done.bill.lines) == provider_tokens


@pytest.mark.slow
def test_the_draft_that_the_reward_model_scores_highest_is_kept_and_all_scores_recorded(store: Store):
    def answer(request) -> str:
        draft = request.sample // 3
        return "unreadable" if draft == 3 else act(argument="very " * draft + "well")

    drafting, scorer = Sampler("s", answer), Longest()
    plan = plan_of(scenes(1), a=drafting, b=drafting, turns=2, best_of=4, scorer=scorer)
    rollout(store, plan, "lab/best")
    (episode,) = episodes(store, "lab/best")
    assert [t.text for t in episode.turns] == ["very very well"] * 2
    assert episode.models == ("unknown", "s best-of-4", "s best-of-4")
    assert len(scorer.sent) == 2
    scored = rows(store, "lab/best", "SELECT * FROM attributions ORDER BY turn, sample")
    assert [(r["turn"], r["sample"]) for r in scored] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [r["raw"] for r in scored[:3]] == [0.44, 0.49, 0.54]
    assert {(r["judge"], r["schema"], r["measure"], r["dimension"]) for r in scored} == {
        ("rm:longest", "best-of-n", "quality", "reward")
    }
    assert {r["call_id"] for r in scored} <= {r.key for r in drafting.sent}
    sent = len(drafting.sent), len(scorer.sent)
    assert rollout(store, plan, "lab/best").created is False
    assert (len(drafting.sent), len(scorer.sent)) == sent


def test_best_of_n_is_the_first_policys_and_its_partner_answers_once(store: Store):
    mine, partner, scorer = Sampler("mine"), Sampler("partner"), Longest()
    rollout(store, plan_of(scenes(1), a=mine, b=partner, turns=4, best_of=3, scorer=scorer, swap=True), "lab/best")
    assert (len(mine.sent), len(partner.sent), len(scorer.sent)) == (12, 4, 4)
    played = {e.models for e in episodes(store, "lab/best")}
    assert played == {("unknown", "mine best-of-3", "partner"), ("unknown", "partner", "mine best-of-3")}


@pytest.mark.slow
def test_rollouts_go_to_the_sotopia_library_and_come_back_but_for_a_flag_and_a_first_name(store: Store, tmp_path: Path):
    """Noor van Dijk is called Noor: her profile has both names, which come back as what else is known of her."""
    rollout(store, plan_of(scenes_of()), "demo/play")
    report = export_sotopia(store.resolve("demo/play"), tmp_path / "out")
    assert (report.episodes, report.differs, report.failures) == (13, {"turns.failed": 13, "agents.meta": 1}, ())


@pytest.mark.parametrize(("named", "pairs", "environments", "count"), [("hard", None, 14, 42), ("all", 2, 15, 30)])
def test_the_published_benchmark_is_played_from_its_profiles(named, pairs, environments, count, tmp_path: Path):
    places = [{"env_id": one, "scenario": "A queue.", "agent_goals": ["Pass", "Stay"]} for one in (*HARD, "easy")]
    people = [{"agent_id": one, "first_name": one} for one in "abc"]
    casts = [{"env_id": p["env_id"], "agent_ids": list(pair)} for p in places for pair in ("ab", "bc", "ca")]
    lines(tmp_path / "profiles.jsonl", *places, *people, *casts)
    found = scenes_of(named, tmp_path, pairs)
    assert len({scene.environment.environment_id for scene in found}) == environments
    assert len(plan_of(found)) == len(found) == count
    assert len({spec.episode_id for spec in plan_of(found, swap=True).specs()}) == 2 * count


@pytest.mark.slow
def test_an_estimate_asks_nobody_and_says_what_has_no_price(store: Store, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none of yours")
    plan = plan_of(scenes_of(), a="gpt-4o", b=brief(), best_of=2, scorer=Longest())
    with Ledger(store.root / ".ledger") as ledger:
        told = estimate_rollout(plan, ledger, AskOptions(), load())
    assert (told.episodes, told.most_calls) == (13, 13 * (10 * 2 + 10))
    priced, unpriced = told.lines
    assert (priced.judge, unpriced.judge) == ("gpt-4o", "brief")
    assert priced.cost is not None
    assert priced.cost > 0
    assert unpriced.cost is None
    assert told.total is None
    assert not store.root.exists()


@pytest.mark.slow
def test_an_estimate_counts_the_price_of_long_contexts(store: Store):
    url, long = "http://127.0.0.1:1/v1", Price(10.0, 10.0, 10.0, 10.0)
    plan = plan_of(scenes_of(), a=OPENAI + url, b=OPENAI + url, turns=6)
    costs = []
    for starts in (), (0,), (600,):
        price = Price(1.0, 1.0, 1.0, 1.0, long=tuple((start, long) for start in starts))
        with Ledger(store.root / ".ledger") as ledger:
            prices = Prices("2026-11-01", 0.5, {"*": {"sim-a": price}})
            costs.append(estimate_rollout(plan, ledger, AskOptions(), prices).total or 0)
    assert costs[1] == pytest.approx(10 * costs[0])
    assert costs[0] < costs[2] < costs[1]


@pytest.mark.slow
def test_a_template_is_told_which_model_plays(store: Store, tmp_path: Path):
    file = tmp_path / "two.yaml"
    said = "messages: [{role: user, content: '%s {observations}'}]"
    file.write_text(
        "format: sotopia-rl-data template 1\nvariants:\n"
        f"- when: {{model: ['scripted:warm']}}\n  {said % 'TO-WARM'}\n"
        f"- when: {{model: ['scripted:firm']}}\n  {said % 'TO-FIRM'}\n"
    )
    plan = plan_of(scenes(2), template=load_template(file), swap=True)
    rollout(store, plan, "lab/play")
    models = {(e.episode_id, one.agent): one.model for e in episodes(store, "lab/play") for one in e.agents}
    told = {
        (models[row["episode_id"], row["agent"]], row["prompt"][0]["content"][:7])
        for row in rows(store, "lab/play", "FROM rewards")
    }
    assert told == {("scripted:firm", "TO-FIRM"), ("scripted:warm", "TO-WARM")}


@pytest.mark.slow
def test_an_estimate_leaves_out_what_the_ledger_has(store: Store):
    with running() as provider:
        policies = {"a": OPENAI + provider.openai_url, "b": ANTHROPIC + provider.url}
        done = rollout(store, plan_of(scenes(3), **policies), "lab/play")
        asked = provider.log()["requests"]
        with Ledger(store.root / ".ledger") as ledger:
            same = estimate_rollout(plan_of(scenes(3), **policies), ledger, AskOptions(), load())
            more = estimate_rollout(plan_of(scenes(5), **policies), ledger, AskOptions(), load())
        with Ledger(store.root / "another") as empty:
            fresh = estimate_rollout(plan_of(scenes(5), **policies), empty, AskOptions(), load())
        assert provider.log()["requests"] == asked
    assert (hits(same), same.asked, same.most_calls) == (done.asked, 0, 0)
    assert (hits(more), more.most_calls, hits(fresh), fresh.most_calls) == (done.asked, 40, 0, 100)
    assert 0 < more.asked < fresh.asked


def hits(told: RolloutEstimate) -> int:
    return sum(line.hits for line in told.lines)


@pytest.mark.slow
def test_the_providers_weather_changes_nothing_in_what_is_played(store: Store, tmp_path: Path):
    digests = []
    for name, weather in (("calm", {}), ("storm", {"broken": 0.15, "throttled": 0.15, "retry_after": 0.01})):
        with running(malformed="fenced,truncated,missing,empty,refusal", malformed_share=0.3, **weather) as provider:
            plan = plan_of(scenes(6), a=OPENAI + provider.openai_url, b=ANTHROPIC + provider.url)
            done = rollout(Store(tmp_path / name), plan, "lab/play", pacing=Pacing(backoff_s=0.01))
        assert (done.episodes, done.abandoned) == (6, 0)
        assert done.failed_turns > 0  # the toy provider answers a second draw as it did the first
        # keys name the address: what is played is the same, and only the failures' call ids are others
        digests.append(store_digest(tmp_path / name, "episodes") + store_digest(tmp_path / name, "rewards"))
    assert digests[0] == digests[1]


def store_digest(root: Path, config: str) -> list[str]:
    return [one.digest for one in Store(root).resolve("lab/play").manifest.configs[config].values()]


@pytest.mark.slow
def test_a_budget_holds_for_all_runs_together_and_the_bill_is_that_of_one(store: Store, tmp_path: Path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts: {127.0.0.1: {sim-a: [10, 1, 10, 100], sim-b: [10, 1, 10, 100]}}\n")
    with running() as provider:
        policies = {"a": f"{OPENAI}{provider.openai_url}", "b": f"{ANTHROPIC}{provider.url}"}
        plan = plan_of(scenes(3), **policies, swap=True, sampling={"max_tokens": 100})
        with pytest.raises(BudgetSpent, match=r"budget of 0.08 USD: 0\.0.* of 6 episodes are left undone"):
            rollout(store, plan, "lab/play", budget=0.08, prices=prices)
        asked = provider.log()["requests"]
        assert asked > 0
        assert store.names() == []
        done = rollout(store, plan, "lab/play", budget=1.0, prices=prices)
        assert provider.log()["requests"] == asked + done.asked == done.utterances
        with pytest.raises(UsageError, match="no price for sim-a"):
            rollout(store, plan, "lab/other", budget=1.0)
        with pytest.raises(UsageError, match="above 0 USD, not 0"):
            rollout(store, plan, "lab/other", budget=0, prices=prices)
        once = rollout(Store(tmp_path / "once"), plan, "lab/play", prices=prices)
    assert done.bill.total == pytest.approx(once.bill.total)
    assert 0.08 < done.bill.total < 1.0
    assert done.digest == once.digest


@pytest.mark.slow
def test_what_was_in_flight_at_a_kill_stays_spent_when_a_later_run_makes_the_call_again(store: Store, tmp_path: Path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: 2026-11-01\nhosts: {127.0.0.1: {sim-a: [10, 1, 10, 100], sim-b: [10, 1, 10, 100]}}\n")
    listed, folder = load(prices), store.root / ".ledger"
    with running() as provider:
        policies = {"a": f"{OPENAI}{provider.openai_url}", "b": f"{ANTHROPIC}{provider.url}"}
        plan = plan_of(scenes(2), **policies, sampling={"max_tokens": 30_000})
        first = EpisodeRun(next(plan.specs()), plan.rules).first()
        killed = Budget(9.0, listed, folder)
        hold = asyncio.run(killed.reserve(first.key, first))
        assert hold is not None
        assert hold.usd > 3.0
        killed.given_up(hold)  # as a kill leaves it: on record, and never released
        killed.close()
        time.sleep(0.05)
        done = rollout(store, plan, "lab/play", prices=prices)
        assert done.bill.total is not None
        assert done.bill.total < 1.0
        with Ledger(folder) as ledger, capped(9.0, EpisodeChains(plan, ledger, print), ledger, listed) as budget:
            assert budget.spent == pytest.approx(done.bill.total + hold.usd)
        more = plan_of(scenes(3), **policies, sampling={"max_tokens": 30_000})
        with pytest.raises(BudgetSpent, match="budget of 3 USD"):
            rollout(store, more, "lab/play", budget=3.0, prices=prices)


@pytest.mark.slow
def test_what_was_asked_after_an_answer_that_no_longer_counts_stays_on_the_bill(store: Store):
    """Asked once more, a turn may go another way than the one that was played on from before."""
    sulks = [True]
    one = Sampler("fickle", lambda request: "no" if sulks[0] and not request.sample % 3 else act(argument=request.key))
    plan = plan_of(scenes(2), a=one, b=brief(9), turns=4)
    first = rollout(store, plan, "lab/play")
    assert len(one.sent) == 2 * 2 * 2  # drawn again in each turn of its own
    sulks[0] = False
    for retry_failed in (True, False):
        again = rollout(store, plan, "lab/play", retry_failed=retry_failed)
        (line,) = [line for line in again.bill.lines if line.judge == "fickle"]
        assert (line.calls, len(one.sent)) == (8 + 4, 8 + 4)
    assert again.digest != first.digest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"a": "gpt5o"}, "'gpt5o' is not a policy"),
        ({"a": "scripted:shy"}, "There is no scripted policy 'shy'"),
        ({"a": "openai:"}, "'openai:' does not name a model"),
        ({"a": "transformers:./none"}, "no function to load it was given"),
        ({"a": "./none.py:Policy"}, "The policy's file ./none.py does not exist"),
        ({"a": 7}, "7 is not a policy"),
        ({"a": "openai:m@http://user:pass@localhost/v1"}, "contains a user name"),
        ({"a": "openai:m@http://localhost:1/v1", "b": "openai:m@http://localhost:2/v1"}, "Two policies are called 'm'"),
        ({"a": brief(), "b": brief(3)}, "Two policies are called 'brief'"),
        ({"a": type("Half", (), {"id": "half", "target": Target("toy", "half")})()}, "has a target but no send"),
        ({"b": "scripted:warm", "swap": True}, "would play each episode twice"),
        ({"sampling": {"temperature": 1.0}}, "Neither scripted:warm nor scripted:firm is a model"),
        ({"turns": 0}, "0 turns"),
        ({"repeat": 0}, "--repeat 0 is out of range"),
        ({"best_of": 65, "scorer": Longest()}, "--best-of 65 is out of range"),
        ({"best_of": 2}, "Best-of-N needs both a number of drafts and a reward model"),
        ({"scorer": Longest()}, "Best-of-N needs both a number of drafts and a reward model"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"seed": MOST_SEED + 1}, "is out of range"),
        ({"dialect": "0.2"}, "'0.2' is not a dialect"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is_asked(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        plan_of(scenes(2), **changes)
    with pytest.raises(UsageError, match="no scenario"):
        plan_of([])


@pytest.mark.parametrize(
    ("named", "profiles", "pairs", "sentence"),
    [
        ("hard", None, None, "whose profiles do not ship"),
        ("samples", ".", None, "--profiles is used only with"),
        ("samples", None, 0, "--pairs 0"),
        ("mine.yaml", None, None, "There are no scenarios 'mine.yaml'"),
    ],
)
def test_scenes_that_are_not_there_are_told_with_where_to_find_them(named, profiles, pairs, sentence):
    with pytest.raises(UsageError, match=sentence):
        scenes_of(named, profiles, pairs)


def test_the_failure_of_an_abandoned_episode_tells_no_address():
    plan = plan_of(scenes(1), a=f"{OPENAI}http://127.0.0.1:9/v1", b=brief())
    run = EpisodeRun(next(iter(plan.specs())), plan.rules)
    run.take(run.first(), Settled(None, False, False, "sim-a at http://127.0.0.1:9/v1: 500 busy"))
    assert [failure.reason for failure in run.failures] == ["sim-a at its provider: 500 busy"]
