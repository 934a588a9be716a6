"""rollout --constrain: the action's schema is sent as judges are sent theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.flat_calls import plan_of, rollout
from fixtures.playing import brief, scenes

from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.fake_provider.running import running
from sotopia_rl_data.rollouts.actions import action_schema, read_action
from sotopia_rl_data.store import Store


@pytest.mark.slow
def test_a_base_model_plays_where_it_is_constrained_and_loses_every_turn_in_prose_where_it_is_not(tmp_path: Path):
    store = Store(tmp_path / "store")
    with running(habit="prose_unless_constrained") as provider:
        models = {"a": f"openai:base-a@{provider.openai_url}", "b": f"anthropic:base-b@{provider.url}"}
        free = rollout(store, plan_of(scenes(2), turns=4, **models), "lab/free")
        bound = rollout(store, plan_of(scenes(2), turns=4, constrain=True, **models), "lab/bound")
        again = rollout(store, plan_of(scenes(2), turns=4, constrain=True, **models), "lab/bound")
    assert free.failed_turns == free.utterances > 0
    assert (bound.failed_turns, bound.failures) == (0, {})
    assert (again.asked, again.digest) == (0, bound.digest)
    assert store.resolve("lab/bound").manifest.recipe["rollout"]["constrain"] is True
    assert "constrain" not in store.resolve("lab/free").manifest.recipe["rollout"]


def test_where_actions_may_be_private_the_schema_names_who_may_see_them():
    assert action_schema(["Mia", "Ben"])["properties"]["to"]["items"]["enum"] == ["Mia", "Ben"]
    assert action_schema()["required"] == ["action_type", "argument"]
    assert read_action('{"action_type": "speak", "argument": "Hi.", "to": ["Mia"]}', {"Mia": "m"}).to == ("m",)


def test_constrain_without_a_model_behind_an_api_is_a_mistake():
    with pytest.raises(UsageError, match="Neither brief nor scripted:firm is a model that --constrain could apply to"):
        plan_of(scenes(1), a=brief(), constrain=True)
