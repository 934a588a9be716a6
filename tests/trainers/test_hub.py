"""By dataset id and revision from a Hub, and out again by model id: pinned, one commit, one tag, stock to load."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
# one way of transfer is enough to see the trainers through; the Hub's own tests take both
pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.parametrize("hub", ["lfs"], indirect=True)]

from fixtures.hub_client import ROOT
from fixtures.training import make_dataset

from sotopia_rl_data import samples
from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers.tiny import make_tiny


@pytest.fixture(scope="module")
def walked(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two releases of a dataset; then an RM trained on the first by its id, in a store that has neither."""
    root = tmp_path_factory.mktemp("walked")
    repo = hub.repo("train")
    store = Store(root / "store")
    for seed in (1, 2):
        make_dataset(root / "store", repo, episodes=20, turns=4, seed=seed)
        hub.push(store.resolve(repo))
    make_tiny(root / "model", hidden=32, layers=2)
    train = ("--model", root / "model", "--preset", "tiny", "--store", root / "fresh", "--json")
    done = hub.run(
        "train", "rm", "--dataset", f"{repo}@v1.0.0", *train, "--output", root / "rm", "--push-to-hub", f"{repo}-rm"
    )
    return {"root": root, "repo": repo, "store": store, "train": train, "rm": done.json}


def test_what_cannot_be_released_is_refused_before_it_is_trained(walked: dict[str, Any], hub: Any):
    out, dataset = walked["root"] / "refused", ("--dataset", f"{walked['repo']}@v1.0.0")
    again = ("train", "rm", *dataset, *walked["train"], "--output", out, "--push-to-hub", f"{walked['repo']}-rm")
    done = hub.run(*again, "--set", "adapter=lora", check=False)
    assert done.code == 1
    assert "its base model, model, is a directory that nobody else has" in done.err
    assert not out.exists()


def test_the_pinned_release_is_trained_on_after_a_newer_one_is_out(walked: dict[str, Any], hub: Any):
    dataset = walked["rm"]["dataset"]
    assert dataset["version"] == "v1.0.0"
    assert dataset["digest"] == walked["store"].version(walked["repo"], "v1.0.0").digest
    assert dataset["commit"] == hub.tags(walked["repo"])["v1.0.0"]


def test_the_reward_model_is_one_commit_and_a_tag_and_loads_by_id(walked: dict[str, Any], hub: Any):
    name, made = f"{walked['repo']}-rm", walked["rm"]["release"]
    assert (made["state"], made["version"]) == ("published", "v1.0.0")
    code = f"""
import json
from huggingface_hub import HfApi, hf_hub_download
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from sotopia_rl_data.trainers import RewardModel
name = {name!r}
api = HfApi()
titles = [c.title for c in api.list_repo_commits(name)]
files = sorted(api.list_repo_files(name, revision="v1.0.0"))
ours = RewardModel.load(name + "@v1.0.0")
stock = AutoModelForSequenceClassification.from_pretrained(name, revision="v1.0.0").eval()
tokenizer = AutoTokenizer.from_pretrained(name, revision="v1.0.0")
talk = [{{"role": "user", "content": "hi"}}, {{"role": "assistant", "content": "hello"}}]
ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False).rstrip(), return_tensors="pt")
stock_score = stock(**ids).logits.item() * ours.head.std[0] + ours.head.mean[0]
card = open(hf_hub_download(name, "README.md", revision="v1.0.0")).read()
run = json.load(open(hf_hub_download(name, "run.json", revision="v1.0.0")))
print(json.dumps([titles, files, ours.score("hi", "hello"), stock_score, ours.identity, card, run]))
"""
    titles, files, score, stock, identity, card, run = hub.run.python(code)
    assert titles.count("Release v1.0.0") == 1
    assert {"model.safetensors", "config.json", "run.json", "README.md", "tokenizer.json"} <= set(files)
    assert not [f for f in files if f.endswith((".bin", ".pt")) or "checkpoint" in f]
    assert score == pytest.approx(stock, abs=1e-6)
    assert identity == f"{name}@{walked['rm']['release']['commit']}"
    assert walked["rm"]["dataset"]["digest"][:16] in card
    assert "model-index" in card
    assert str(walked["root"]) not in json.dumps(run) + card


def test_policies_are_of_the_revisions_that_were_named_and_so_is_what_they_are_kept_near(
    walked: dict[str, Any], hub: Any
):
    """On v1.0.0 of the data after v1.1.0 is out, and from v1.0.0 of a policy whose repository has moved on.

    A step of no size leaves the policy what it was: its divergence from the reference is nil if that is the same
    revision. An adapter names the commit of its base, which is where it is loaded from.
    """
    repo, root = walked["repo"], walked["root"]
    code = f"""
import json
from pathlib import Path
from huggingface_hub import HfApi
from sotopia_rl_data.trainers.api import release, train_grpo, train_rm, train_sft
from sotopia_rl_data.trainers.config import PolicyGRPOConfig, PolicySFTConfig, RMConfig, configure
from sotopia_rl_data.trainers import RewardModel
from sotopia_rl_data.trainers.tiny import make_tiny
repo, root, quiet = {repo!r}, Path({str(root)!r}), ["disable_tqdm=true"]
def configured(config_class, model, name, settings, **fields):
    options = dict(dataset=repo + "@v1.0.0", model=model, output_dir=str(root / name), store=str(root / "fresh"))
    return configure(config_class, preset="tiny", options=options | fields, settings=settings)
sft = train_sft(configured(PolicySFTConfig, str(root / "model"), "sft", [*quiet, "adapter=none"]))
policy = repo + "-sft@" + release(root / "sft", repo + "-sft")["version"]
adapted = train_rm(configured(RMConfig, policy, "adapted", [*quiet, "adapter=lora"]))
scores = [RewardModel.load(root / "adapted").score("hi", "hello")]
other = make_tiny(root / "other-weights", hidden=32, layers=2, seed=8) / "model.safetensors"
HfApi().upload_file(path_or_fileobj=str(other), path_in_repo="model.safetensors", repo_id=repo + "-sft")
scores.append(RewardModel.load(root / "adapted").score("hi", "hello"))
near = [*quiet, "adapter=none", "beta=0.1", "learning_rate=0", "max_steps=1"]
grpo = train_grpo(configured(PolicyGRPOConfig, policy, "grpo", near, reward_model=repo + "-rm@v1.0.0"))
rows = [json.loads(line) for line in (root / "grpo" / "metrics.jsonl").read_text().splitlines()]
base = json.loads((root / "adapted" / "adapter_config.json").read_text())["revision"]
commit = HfApi().model_info(repo + "-sft", revision="v1.0.0").sha
print(json.dumps([sft, adapted, grpo, [row["kl"] for row in rows if "kl" in row], scores, base, commit]))
"""
    sft, adapted, grpo, divergence, scores, base, commit = hub.run.python(code)
    for record in (sft, adapted, grpo):
        assert record["dataset"]["version"] == "v1.0.0"
        assert record["dataset"]["commit"] == hub.tags(repo)["v1.0.0"]
    assert grpo["reward_model"]["identity"] == f"{repo}-rm@{walked['rm']['release']['commit']}"
    assert divergence == [pytest.approx(0.0, abs=1e-8)]
    assert base == commit
    assert scores[0] == scores[1]


def release(run: Path, name: str, more: str = "") -> str:
    """A script that publishes the run's model."""
    return f"""
import json
from sotopia_rl_data.trainers.release import release_run
print(json.dumps(release_run({str(run)!r}, {name!r}{more})))
"""


def test_a_release_is_never_changed_and_keeps_the_results_that_others_added(walked: dict[str, Any], hub: Any):
    """A model's page reads its figures from `.eval_results/`: ours, of the held-out rows, and anybody's."""
    name, run = f"{walked['repo']}-rm", walked["root"] / "rm"
    assert hub.run.python(release(run, name))["state"] == "already published"
    theirs = [{"dataset": {"id": "lab/manners", "task_id": "test"}, "value": 0.5}]
    hub.run.python(
        "from huggingface_hub import HfApi\n"
        f"HfApi().upload_file(path_or_fileobj={yaml.safe_dump(theirs).encode()!r}, "
        f"path_in_repo='.eval_results/manners.yaml', repo_id={name!r})\nprint(0)"
    )
    other = walked["root"] / "other"
    hub.run("train", "rm", "--dataset", walked["repo"], *walked["train"], "--output", other, "--seed", 7)
    refused = hub.run.script(release(other, name, ", version='v1.0.0'"))
    assert "v1.0.0 is published with other content" in refused.err
    assert hub.run.python(release(other, name))["version"] == "v1.1.0"
    read = f"""
import json, yaml
from huggingface_hub import hf_hub_download, parse_eval_result_entries
found = [hf_hub_download({name!r}, f".eval_results/{{one}}.yaml") for one in ("manners", "sotopia-rl-data")]
entries = [parse_eval_result_entries(yaml.safe_load(open(path))) for path in found]
print(json.dumps([[[e.dataset_id, e.task_id, e.value, e.dataset_revision] for e in some] for some in entries]))
"""
    others, ours = hub.run.python(read)
    assert others == [["lab/manners", "test", 0.5, None]]
    record = json.loads((other / "run.json").read_text())
    commit, mse = record["dataset"]["commit"], record["metrics"]["validation"]["mse"]
    assert [walked["repo"], "validation_mse", mse, commit] in ours
    assert not [task for _, task, *_ in ours if task.startswith("train_")]


def test_a_secret_in_any_file_of_a_model_or_in_the_message_stops_its_release(walked: dict[str, Any], hub: Any):
    """Each file in turn, in one process; nothing is asked of the Hub that changes anything."""
    run, name, key = walked["root"] / "rm", hub.repo("leaky"), "sk-proj-" + "Ab1_" * 8
    code = f"""
import json, shutil
from pathlib import Path
from sotopia_rl_data.errors import SecretsFound
from sotopia_rl_data.trainers.api import release
run, key, told = Path({str(run)!r}), {key!r}, {{}}
def stopped(folder, message=""):
    try:
        return release(folder, {name!r}, message=message)["state"]
    except SecretsFound as error:
        return [error.message, error.hint]
told["the message"] = stopped(run, f"by {{key}}")
told["allowed"] = release(run, {name!r} + "-open", message=f"by {{key}}", allow_secrets=True)["state"]
for path in sorted(run.iterdir()):
    if path.is_dir() or path.name in ("run.json", "README.md"):
        continue
    copy = run.with_name("leaky")
    shutil.copytree(run, copy)
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + size])
        header["__metadata__"] = {{"format": "pt", "by": key}}
        text = json.dumps(header).encode()
        (copy / path.name).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size:])
    elif path.suffix == ".json":
        (copy / path.name).write_text(json.dumps(json.loads(data) | {{"by": key}}))
    else:
        (copy / path.name).write_bytes(data + key.encode())
    told[path.name] = stopped(copy)
    shutil.rmtree(copy)
print(json.dumps(told))
"""
    hub.server.log()
    told = hub.run.python(code)
    assert told.pop("allowed") == "published"
    unpublished = {file for file, said in told.items() if said in ("published", "already published")}
    assert unpublished == {"training_args.bin"}
    for file, said in told.items():
        if file not in unpublished:
            assert said == [
                f"{name}@v1.0.0 contains what looks like a secret: {file}: an API key (sk-…).",
                "revoke them, take them out of the folder, and release it again: from sotopia_rl_data.trainers import "
                f"api; api.release('{run if file == 'the message' else run.with_name('leaky')}', '{name}'); "
                "with allow_secrets=True they are published as they are",
            ]
    assert {"the message", "model.safetensors", "tokenizer.json", "config.json", "metrics.png"} <= told.keys()


@pytest.mark.parametrize("fault", [{"path": "/commit/"}, {"path": "/tag/"}, {"path": "/commit/", "after": True}])
def test_a_push_that_is_broken_off_is_finished_and_nothing_is_done_twice(
    walked: dict[str, Any], hub: Any, fault: dict[str, Any]
):
    name = hub.repo("broken")
    hub.server.fault(status=503, **fault)
    assert hub.run.python(release(walked["root"] / "rm", name))["state"] == "published"
    commits = f"[c.title for c in HfApi().list_repo_commits({name!r})]"
    titles = hub.run.python(f"import json\nfrom huggingface_hub import HfApi\nprint(json.dumps({commits}))")
    assert titles.count("Release v1.0.0") == 1


@pytest.mark.timeout(1000)  # eight commands, each of which imports it all
def test_the_whole_pipeline_names_every_step_by_id(hub: Any, tmp_path: Path):
    words = samples.path("plain").read_text("utf-8")
    model = make_tiny(tmp_path / "tiny", hidden=32, layers=1, vocab=2048, text=[words])
    environment = hub.run.environment | {
        "ORG": "lab", "WORK": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "MODEL": str(model),
    }  # fmt: skip
    done = subprocess.run(
        ["sh", "examples/pipeline.sh"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "lab/policy@v1.0.0 loads with transformers" in done.stdout
    sft, rm, record = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("sft", "rm", "grpo"))
    assert sft["dataset"] == rm["dataset"] == record["dataset"]
    assert (record["dataset"]["version"], len(record["dataset"]["commit"])) == ("v1.0.0", 40)
    assert record["model"] == "lab/policy-sft@v1.0.0"
    assert record["reward_model"]["identity"].startswith("lab/reward-model@")
    assert record["dataset"]["name"] == "lab/rewards"
