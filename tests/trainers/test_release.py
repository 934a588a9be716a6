"""What a release says of a run: nothing of the machine and the servers that trained it."""

from __future__ import annotations

from sotopia_rl_data.trainers.release import public_record


def test_the_address_of_a_reward_server_is_not_published():
    url = "http://me:secret@10.0.0.7:8000/v1"
    record = {
        "kind": "grpo",
        "config": {"reward_model": url, "held_out_judge": url, "output_dir": "runs/x"},
        "held_out": {"judge": url},
        "command": f"sotopia-rl-data train grpo --reward-model '{url}' --held-out-judge {url} --preset tiny",
        "metrics": {"train": {"reward_first": 0.5}},
    }
    assert public_record(record) == {
        "kind": "grpo",
        "config": {"reward_model": "URL", "held_out_judge": "URL"},
        "held_out": {"judge": "URL"},
        "command": "sotopia-rl-data train grpo --reward-model 'URL' --held-out-judge URL --preset tiny",
        "metrics": {"train": {"reward_first": 0.5}},
    }
