"""A push is one commit and a tag, or nothing; what is published never changes; what is a person's stays."""

from __future__ import annotations

import json

import pytest
from fixtures.hub import toy
from fixtures.promises import check_keys
from fixtures.records import lines
from fixtures.stores import commit, episodes, failures, reward_row, rewards

from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.importers.options import ImportOptions
from sotopia_rl_data.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.mark.slow
def test_a_release_is_one_commit_and_its_tag(hub, store):
    repo = hub.repo()
    version = toy(store, repo, 0, 1)
    hub.server.log()
    done = hub.push(version).json
    log = hub.server.log()
    assert (done["state"], done["version"], done["attempts"]) == ("published", "v1.0.0", 1)
    assert hub.titles(repo) == ["Release v1.0.0", "initial commit"]
    assert hub.tags(repo) == {"v1.0.0": done["commit"]}
    assert sum("/commit/" in line for line in log) == 1
    assert hub.files(repo) == {
        "README.md",
        "manifest.json",
        "assets/rewards.png",
        "croissant.json",
        "rewards/train-00000-of-00001.parquet",
        "episodes/train-00000-of-00001.parquet",
    }
    published = json.loads(hub.text(repo, "manifest.json"))
    assert (published["name"], published["digest"]) == (repo, version.digest)


@pytest.mark.slow
def test_people_who_are_named_are_a_warning_and_the_license_stands_on_the_card(hub, store, tmp_path):
    repo = hub.repo()
    chat = {"messages": [{"role": "user", "name": "Ada", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    for name, pseudonymise in ((repo, False), (hub.repo(), True)):
        options = ImportOptions(license="cc-by-4.0", pseudonymise=pseudonymise)
        version = import_dataset(store, [lines(tmp_path / "a.jsonl", chat)], name, options=options).version
        told = hub.push(version).err
        assert ("may be people's own words" in told) is not pseudonymise
        assert "license: cc-by-4.0" in hub.text(name, "README.md")
        assert ("Ada" in hub.text(name, "README.md")) is False


@pytest.mark.slow
def test_the_next_release_takes_away_what_the_one_before_had_and_no_more(hub, store):
    repo = hub.repo()
    tables = {("rewards", "train"): rewards(reward_row(0)), ("episodes", "train"): episodes(0)}
    first = commit(store, tables | {("failures", "test"): failures("x")}, repo).version
    hub.push(first)
    hub.write(repo, {"notes.md": "a person's"})
    second = commit(store, tables, repo).version
    done = hub.push(second).json
    assert done["deletes"] == ["failures/test-00000-of-00001.parquet"]
    assert "rewards/train-00000-of-00001.parquet" in done["unchanged"]
    assert hub.release(repo) == ("v2.0.0", "whole")
    assert "notes.md" in hub.files(repo)
    assert hub.text(repo, "notes.md") == "a person's"


@pytest.mark.slow
def test_the_same_content_again_is_a_no_op_that_says_so(hub, store):
    version = toy(store, hub.repo(), 0)
    first = hub.push(version).json
    again = hub.push(version).json
    assert (again["state"], again["commit"]) == ("already published", first["commit"])
    assert hub.titles(version.name) == ["Release v1.0.0", "initial commit"]


@pytest.mark.slow
def test_other_content_under_a_published_number_is_refused_and_the_next_free_one_is_named(hub, store, tmp_path):
    repo = hub.repo()
    hub.push(toy(store, repo, 0))
    hub.push(toy(store, repo, 0, 1))
    other = toy(Store(tmp_path / "other"), repo, 7)
    refused = hub.push(other, check=False)
    assert refused.code == 1
    assert f"{repo}@v1.0.0 is published with other content" in refused.err
    assert "--version v1.2.0" in refused.err
    assert hub.release(repo) == ("v1.1.0", "whole")


@pytest.mark.slow
def test_an_earlier_number_cannot_follow_a_later_one(hub, store):
    repo = hub.repo()
    hub.push(toy(store, repo, 0, version="v3.0.0"))
    refused = hub.push(toy(store, repo, 1, version="v2.0.0"), check=False)
    assert (refused.code, hub.release(repo)) == (1, ("v3.0.0", "whole"))
    assert f"{repo} already has v3.0.0" in refused.err


@pytest.mark.slow
def test_a_dry_run_shows_everything_and_asks_only(hub, store):
    repo = hub.repo()
    first, second = toy(store, repo, 0), toy(store, repo, 0, 1)
    hub.server.log()
    planned = hub.push(first, "--dry-run").json
    assert (planned["state"], planned["commit"]) == ("planned", None)
    assert {line.split()[0] for line in hub.server.log()} <= {"GET", "HEAD"}
    assert hub.run("pull", repo, "--store", store.root / "no", check=False).code == 2  # it was not even created
    hub.push(first)
    hub.server.log()
    shown = hub.run("push-to-hub", second.ref, "--store", store.root, "--dry-run").out
    log = hub.server.log()
    assert log
    assert {line.split()[0] for line in log} <= {"GET", "HEAD"}
    size = second.manifest.configs["rewards"]["train"].files[0].size
    assert f"add rewards/train-00000-of-00001.parquet {size:,}" in " ".join(shown.split())
    assert f"-**{repo} v1.0.0**" in shown
    assert f"+**{repo} v1.1.0**" in shown
    assert hub.titles(repo) == ["Release v1.0.0", "initial commit"]


@pytest.mark.slow
def test_what_a_person_writes_on_the_hub_survives_every_release(hub, store):
    repo = hub.repo()
    hub.push(toy(store, repo, 0))
    card = hub.text(repo, "README.md").replace("license: unknown", "license: mit").replace("- dialogue\n", "- café\n")
    hub.write(
        repo, {"README.md": card.replace("## Before you use it", "## Mine\n\nRead me, s'il vous plaît.\n\n## Before")}
    )
    for ids in ((0, 1), (0, 1, 2)):
        hub.push(toy(store, repo, *ids))
    text = hub.text(repo, "README.md")
    assert "license: mit" in text
    assert "- café" in text
    assert "Read me, s'il vous plaît." in text
    assert "v1.2.0" in text
    assert "v1.0.0" not in text
    assert text.count("<!-- sotopia-rl-data:begin -->") == 1
    released = store.version(repo, "v1.2.0").dir / "README.md"
    assert released.read_text() == text  # and the next version of the store begins with it


@pytest.mark.slow
def test_prose_of_the_store_counts_until_the_repository_has_its_own(hub, store):
    repo = hub.repo()
    first = toy(store, repo, 0)
    hub.run("card", first.ref, "--write", "--store", store.root)
    (first.dir / "README.md").write_text(
        (first.dir / "README.md").read_text().replace("## Before", "Mine.\n\n## Before")
    )
    assert hub.push(first).json["warnings"] == []
    assert "Mine." in hub.text(repo, "README.md")
    hub.write(repo, {"README.md": hub.text(repo, "README.md").replace("Mine.", "Theirs.")})
    (warning,) = hub.push(toy(store, repo, 0, 1)).json["warnings"]
    assert f"{repo} keeps its own text" in warning
    assert "Theirs." in hub.text(repo, "README.md")


@pytest.mark.slow
def test_a_public_repository_is_not_taken_for_private(hub, store):
    repo = hub.repo()
    hub.push(toy(store, repo, 0))
    refused = hub.push(toy(store, repo, 0, 1), "--private", check=False)
    assert (refused.code, hub.release(repo)) == (1, ("v1.0.0", "whole"))
    assert f"{repo} is public already" in refused.err


@pytest.mark.slow
def test_a_repository_that_has_a_readme_keeps_its_prose(hub, store):
    repo = hub.repo()
    hub.run.python(f"from huggingface_hub import HfApi\nHfApi().create_repo({repo!r}, repo_type='dataset')\nprint('0')")
    hub.write(repo, {"README.md": "---\nlicense: cc-by-4.0\n---\n# Ours\n\nSince 2019.\n"})
    hub.push(toy(store, repo, 0))
    text = hub.text(repo, "README.md")
    assert text.startswith("---\nlicense: cc-by-4.0\nconfigs:\n")
    assert "Since 2019." in text
    assert "## What a row is" in text


@pytest.mark.slow
def test_parquet_that_no_manifest_lists_is_not_mixed_in(hub, store):
    repo = hub.repo()
    hub.run.python(f"from huggingface_hub import HfApi\nHfApi().create_repo({repo!r}, repo_type='dataset')\nprint('0')")
    hub.write(repo, {"rewards/train-old.parquet": "PAR1"})
    refused = hub.push(toy(store, repo, 0), check=False)
    assert refused.code == 1
    assert "rewards/train-old.parquet, which no manifest lists" in refused.err
    assert hub.titles(repo) == ["by hand", "initial commit"]


@pytest.mark.slow
def test_only_what_the_manifest_lists_is_uploaded_and_no_path_of_this_machine(hub, store):
    repo = hub.repo()
    with store.stage(repo) as stage:
        stage.write("rewards", "train", rewards(reward_row(0)))
        provenance = {"sources": [{"format": "plain", "files": 1, "bytes": 9, "names": ["/home/me/secret/run.jsonl"]}]}
        version = stage.commit({}, provenance).version
    for junk in (".env", "rewards/notes.txt", "ledger/calls.parquet"):
        (version.dir / junk).parent.mkdir(exist_ok=True)
        (version.dir / junk).write_text("OPENAI_API_KEY=1")
    hub.push(version)
    assert hub.files(repo) == {
        "README.md",
        "manifest.json",
        "assets/rewards.png",
        "croissant.json",
        "rewards/train-00000-of-00001.parquet",
    }
    assert "/home/me" not in hub.text(repo, "manifest.json") + hub.text(repo, "README.md")
    assert "run.jsonl" in hub.text(repo, "manifest.json")


@pytest.mark.slow
def test_a_pull_request_waits_for_its_merge_and_the_next_run_tags_it(hub, store):
    repo = hub.repo()
    hub.push(toy(store, repo, 0))
    version = toy(store, repo, 0, 1)
    opened = hub.as_("hf_reader")("push-to-hub", version.ref, "--store", store.root, "--create-pr", "--json").json
    assert (opened["state"], opened["pull"]) == ("pull request", 1)
    assert (hub.release(repo), hub.tags(repo).keys()) == (("v1.0.0", "whole"), {"v1.0.0"})
    check_keys("push-to-hub", opened)
    again = hub.as_("hf_reader")("push-to-hub", version.ref, "--store", store.root, "--create-pr", "--json").json
    assert (again["pull"], again["commit"]) == (1, opened["commit"])
    hub.run.python(
        f"from huggingface_hub import HfApi\nHfApi().merge_pull_request({repo!r}, 1, repo_type='dataset')\nprint(0)"
    )
    tagged = hub.push(version).json
    assert (tagged["state"], hub.tags(repo)["v1.1.0"]) == ("tagged", hub.head(repo))
    assert hub.release(repo) == ("v1.1.0", "whole")


@pytest.mark.slow
def test_a_private_repository_refuses_a_wrong_token_with_a_sentence(hub, store, tmp_path):
    repo = hub.repo()
    version = toy(store, repo, 0)
    hub.push(version, "--private")
    for token, says in (("hf_wrong", "refuses the token"), ("hf_bob", "none that your token may see")):
        refused = hub.as_(token)("pull", repo, "--store", tmp_path / token, check=False)
        assert refused.code in (1, 2)
        assert says in refused.err
        assert "HF_TOKEN" in refused.err
        assert "Traceback" not in refused.err
    assert hub.run("pull", repo, "--store", tmp_path / "mine").code == 0


@pytest.mark.slow
def test_a_token_that_may_not_write_is_told_so(hub, store):
    repo = hub.repo()
    hub.push(toy(store, repo, 0))
    refused = hub.as_("hf_reader")("push-to-hub", toy(store, repo, 0, 1).ref, "--store", store.root, check=False)
    assert refused.code == 1
    assert "refuses the token" in refused.err
    assert hub.release(repo) == ("v1.0.0", "whole")


@pytest.mark.slow
def test_a_bare_name_goes_under_the_account_of_the_token(hub, store):
    name = hub.repo().partition("/")[2]
    version = toy(store, name, 0)
    done = hub.push(version).json
    assert done["repo"] == f"alice/{name}"
    assert "alice/" + name in hub.text(f"alice/{name}", "README.md")
    assert "alice/" not in (version.dir / "README.md").read_text()  # the store's own card is of its own name
