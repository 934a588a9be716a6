"""Bad input to the commands that train: a sentence, its hint, an exit code, no traceback, nothing half-written."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from fixtures.training import make_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sotopia_rl_data.cli import program
from sotopia_rl_data.importers import samples_path
from sotopia_rl_data.importers.importing import import_dataset
from sotopia_rl_data.store import Store
from sotopia_rl_data.trainers.reward_model.head import KEY, RewardHead
from sotopia_rl_data.trainers.tiny import TEMPLATE, make_tiny

torch.set_num_threads(1)


class Hungry:
    """A reward that needs more memory than there is."""

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def reward_model(path: Path, head: RewardHead | None = None) -> None:
    """A stock sequence classifier, perhaps one of ours."""
    make_tiny(path, hidden=16, layers=1)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    setattr(model.config, KEY, head and head.to_config())
    model.save_pretrained(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets and models, each with what is wrong with it for a name."""
    root = tmp_path_factory.mktemp("root")
    few: dict[str, Any] = {"episodes": 20, "turns": 2}
    make_dataset(root / "store", **few)
    make_dataset(root / "store", "toys/unlabelled", change=lambda row: row.update(reward=None), **few)
    make_dataset(root / "store", "toys/equal", change=lambda row: row.update(reward=0.5), **few)
    asked = [{"role": "user", "content": "and you?"}]
    make_dataset(root / "store", "toys/questions", change=lambda row: row.update(completion=asked), **few)
    lopsided = {"splits": lambda row: "test" if row["environment_id"] == "env-1" else "train"}
    make_dataset(root / "store", "toys/lopsided", **lopsided, **few)
    import_dataset(Store(root / "store"), [samples_path()], "toys/episodes")
    for name in ("model", "bare", "torn", "unwritten", "listed", "deep"):
        make_tiny(root / name, hidden=16, layers=1)
    (root / "torn" / "model.safetensors").write_bytes((root / "model" / "model.safetensors").read_bytes()[:500])
    (root / "unwritten" / "tokenizer.json").write_text("{}", encoding="utf-8")
    (root / "listed" / "adapter_config.json").write_text("[]", encoding="utf-8")
    (root / "deep" / "config.json").write_text("[" * 100_000, encoding="utf-8")
    (root / "bare" / "chat_template.jinja").unlink()
    make_tiny(root / "larger", hidden=16, layers=1)
    larger = AutoTokenizer.from_pretrained(root / "larger")
    larger.add_tokens(["<one more>"])
    larger.save_pretrained(root / "larger")
    (root / "date.jinja").write_text("{{ strftime_now('%d') }}" + TEMPLATE, encoding="utf-8")
    (root / "parts.jinja").write_text(
        "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}", encoding="utf-8"
    )
    reward_model(root / "rm")
    reward_model(root / "other-tokenizer", RewardHead(("reward",), (1.0,), (0.0,), (1.0,), "of another tokenizer"))
    return root


class Endless:
    """A reward that is not finite."""

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        return [float("inf")] * len(completions)


HUNGRY = f"rewards={__file__}:Hungry"
ENDLESS = f"rewards={__file__}:Endless"
BAD = [
    # what, trainer and options, exit code, what is said, the hint
    ("no rewards at all", "rm --dataset toys/episodes", 2, "have no column 'prompt'", "label the dataset"),
    ("no such column", "rm --targets goal,secret", 2, "have no column 'norm_goal'", "name other targets"),
    ("no reward", "rm --dataset toys/unlabelled", 1, "None of the 40 rows", "show toys/unlabelled"),
    ("no reward, no model", "rm --dataset toys/unlabelled --model ./no", 1, "None of the 40 rows", "show toys/unl"),
    ("equal rewards", "rm --dataset toys/equal", 1, "nothing to learn: in each", "another schema or judge"),
    ("questions", "rm --dataset toys/questions", 1, "ends with a message of the role 'user'", "import the rows anew"),
    ("torn weights", "sft --model ./torn", 1, "one of its files is damaged", "bring it here again"),
    ("torn tokenizer", "rm --model ./unwritten", 2, "one of its files has no 'added_tokens'", "name a folder"),
    ("no template", "sft --model ./bare", 1, "has no chat template", "chat_template=FILE.jinja"),
    ("larger tokenizer", "rm --model ./larger", 1, "has token ids up to", "put the tokenizer"),
    ("larger tokenizer", "sft --model ./larger", 1, "has token ids up to", "put the tokenizer"),
    ("larger tokenizer", "grpo --model ./larger", 1, "has token ids up to", "put the tokenizer"),
    ("date", "rm --set chat_template=date.jinja", 1, "writes today's date", "--set template_kwargs='{strftime_now: 26"),
    ("parts", "sft --set chat_template=parts.jinja", 1, "does not end an assistant's", "chat_template=FILE.jinja"),
    ("unread", "sft --set template_kwargs={\"a\":1}", 2, "does not read 'a'", "leave template_kwargs out"),
    ("pad is eos", "rm --set pad_token=<|im_end|>", 1, "read its score a token too early", "--set pad_token="),
    ("short context", "rm --set max_length=20", 1, "No prompt fits into 20 tokens", "raise max_length"),
    ("short prompts", "grpo --set max_prompt_length=9", 1, "No prompt fits into 9 tokens", "grpo: max_prompt_length"),
    ("another tokenizer", "grpo --reward-model ./other-tokenizer", 1, "not the one it was trained with", "put back"),
    ("unknown preset", "rm --preset papr", 2, "`train rm` has no preset 'papr'", "paper"),
    ("unknown key", "sft --set lerning_rate=1", 2, "There is no setting 'lerning_rate'", "learning_rate"),
    ("empty split", "rm --dataset toys/lopsided", 2, "The validation split", "split_by=grouped"),
    ("empty filter", "sft --where reward>9", 2, "No row of toys/rewards meets the condition", "wider --where"),
    ("unknown dataset", "grpo --dataset toys/nowhere", 2, "toys/nowhere", "sotopia-rl-data"),
    ("unmeasured", "rm --set metric_for_best_model=loss", 2, "'loss' is not a valid metric_for_best_model", "mse"),
    ("unmeasured", "sft --set metric_for_best_model=mse", 2, "'mse' is not a valid metric_for_best_model", "loss"),
    ("no number", "rm --set max_steps=many", 2, "max_steps must be a whole number; it is 'many'", "--set max_steps=10"),
    ("flex on a CPU", "rm --set attention=flex_attention", 2, "cannot train on a CPU", "prefix_tree"),
    ("endless reward", f"grpo --set {ENDLESS}", 1, "The reward Endless returned inf", "let it return a list"),
    ("truncated", "grpo --set truncated_reward=least", 2, "cannot be 'least'", "--set truncated_reward=below"),
    ("out of memory", f"grpo --set {HUNGRY}", 1, "ran out of memory", "lower per_device_train_batch_size"),
]  # fmt: skip


def check_refused(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int, said: str, hint: str) -> None:
    """The command ends with this code, one sentence and one hint."""
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    told = capsys.readouterr().err
    (sentence,) = [line for line in told.splitlines() if line.startswith("error: ")]
    (advice,) = [line for line in told.splitlines() if line.startswith(" hint: ")]
    assert ended.value.code == code
    assert said in sentence
    assert hint in advice
    assert "Traceback" not in told


@pytest.mark.parametrize(("command", "code", "said", "hint"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_a_sentence_a_hint_and_an_exit_code(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
    said: str,
    hint: str,
):
    monkeypatch.chdir(root)
    trainer, *given = command.split()
    options = {"--dataset": "toys/rewards", "--model": "./model", "--preset": "tiny", "--output": str(tmp_path / "out")}
    options |= {"--reward-model": "./rm"} if trainer == "grpo" else {}
    options |= dict(zip(given[::2], given[1::2], strict=True))
    arguments = ["train", trainer, "--store", "store", *(part for option in options.items() for part in option)]
    check_refused(arguments, capsys, code, said, hint)
    assert not list(tmp_path.rglob("run.json")) + list(tmp_path.rglob("*.safetensors"))


BAD_SCORE = [
    ("a policy", "toys/rewards --reward-model ./model", 1, "is not a reward model", "`train rm` wrote"),
    ("torn weights", "toys/rewards --reward-model ./torn", 1, "one of its files is damaged", "bring it here again"),
    ("a list", "toys/rewards --reward-model ./listed", 1, "one of its files is damaged", "bring it here again"),
    ("deep JSON", "toys/rewards --reward-model ./deep", 1, "one of its files is damaged", "bring it here again"),
    ("no model", "toys/rewards --reward-model ./no", 2, "there is no folder ./no", "name a folder"),
    ("another tokenizer", "toys/rewards --reward-model ./other-tokenizer", 1, "not the one it was", "put back"),
    ("no dataset", "toys/nowhere --reward-model ./rm", 2, "toys/nowhere", "sotopia-rl-data"),
    ("no rewards", "toys/episodes --reward-model ./rm", 2, "have no column 'prompt'", "label the dataset"),
    ("no shard", "toys/rewards --reward-model ./rm --shard 4/3", 2, "no shard 4/3", "--shard 3/8"),
    ("no ledger", "toys/rewards --reward-model ./rm --ledger date.jinja", 2, "date.jinja", "--help"),
]


@pytest.mark.parametrize(("given", "code", "said", "hint"), [b[1:] for b in BAD_SCORE], ids=[b[0] for b in BAD_SCORE])
def test_bad_input_of_score_is_a_sentence_a_hint_and_an_exit_code_and_makes_no_version(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    code: int,
    said: str,
    hint: str,
):
    monkeypatch.chdir(root)
    check_refused(["score", *given.split(), "--store", "store", "--out", "toys/scored"], capsys, code, said, hint)
    assert not Path("store/toys/scored").exists()


def test_no_model_is_made_for_rows_without_rewards(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit):
        program.main(["train", "rm", "--dataset", "toys/unlabelled", "--preset", "tiny", "--store", "store"])
    assert not Path("runs").exists()
