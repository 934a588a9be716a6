"""The commands that train (`train rm`, `train sft`, `train dpo`, `train grpo`), and `score` and `inspect`: thin over
`trainers.api`.

Importing this module loads no torch, so that `--help` is instant. Every option of a trainer is also a field of its
configuration; `--set key=value` sets the fields that have no option.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import asking, console, plan
from sotopia_rl_data.errors import Interrupted, UsageError
from sotopia_rl_data.refs import parse
from sotopia_rl_data.trainers import api

if TYPE_CHECKING:
    from sotopia_rl_data.shards import Shard
    from sotopia_rl_data.store import Store
    from sotopia_rl_data.trainers.config import TrainerConfig
    from sotopia_rl_data.trainers.settings import TrainingSetting


_TINY_MODEL = Path("runs/tiny-model")  # random, made in a second: for a first try without a download


def _show_settings(context: click.Context, _option: click.Parameter, given: bool) -> None:
    """Print the settings of a trainer, this project's own first, as `--help` prints options."""
    if not given or context.resilient_parsing:
        return
    from sotopia_rl_data.trainers import settings

    kind = str(context.info_name)
    api.check_libraries()
    known = settings.with_preset(kind).values()
    if not known:
        raise UsageError(
            "The settings of the installed transformers and TRL cannot be read.", "give any field of theirs with --set"
        )
    formatter = context.make_formatter()
    for owner in dict.fromkeys(setting.owner for setting in reversed(known)):
        with formatter.section(settings.TITLES.get(owner, f"Settings of {owner.lstrip('_')}")):
            formatter.write_dl([_explained(setting) for setting in known if setting.owner == owner])
    click.echo(formatter.getvalue().rstrip())
    context.exit()


def _explained(setting: TrainingSetting) -> tuple[str, str]:
    """A setting with its type, and what it means."""
    choices = f"  [one of: {', '.join(setting.choices)}]" if setting.choices else ""
    default = f"  [default: {setting.default}]" if setting.default else ""
    return f"{setting.name}: {setting.type}", f"{setting.meaning}{choices}{default}"


def _trainer_options(command: console.F) -> console.F:
    """The options of every trainer."""
    for option in (
        click.option("--push-to-hub", "release_as", metavar="ORG/NAME", help="Release the model: one commit, one tag."),
        click.option(
            "--resume", is_flag=True, default=None, help="Resume from the newest checkpoint in the output folder."
        ),
        click.option("--gpus", default="1x80GB", show_default=True, metavar="NxSIZE", help="What --plan plans for."),
        click.option(
            "--plan",
            is_flag=True,
            help="Show what the run would take and whether it fits; needs no GPU, trains nothing.",
        ),
        click.option("--seed", type=int, help="Two runs on a CPU with the same seed are equal.  [default: 42]"),
        click.option("--where", metavar="SQL", help='Train on these rows only, as in "reward >= 0.7".'),
        click.option(
            "--help-settings",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_settings,
            help="List all fields for --set and --config, with meaning and default, and exit.",
        ),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any field: see --help-settings."),
        click.option("--config", type=click.Path(dir_okay=False), help="A YAML file of fields."),
        click.option(
            "--preset", metavar="NAME", help="Fields that ship with the package: paper, 8x80gb, …  [default: default]"
        ),
        console.output_option("The folder of the run.  [default: runs/KIND-DATASET]", required=False, folder=True),
        click.option(
            "--model",
            metavar="DIR|ID[@REV]",
            help=f"What to train.  [required, but for --preset tiny, which makes {_TINY_MODEL}]",
        ),
        click.option(
            "--dataset",
            required=True,
            metavar="REF",
            shell_complete=console.complete_datasets,
            help="A path, a name, or org/name@v1.2.0.",
        ),
    ):
        command = option(command)
    return console.store_option(console.json_option(command))


_adapter_option = click.option(
    "--policy-adapter", type=click.Path(), metavar="DIR", help="The adapter that `train sft` wrote."
)


@click.group()
def train() -> None:
    """Train on a dataset by name: a reward model, or a policy by behaviour cloning, DPO or GRPO.

    Needs the extra `train`: torch, transformers, trl and peft. The dataset is pinned before the first step and written
    into the run's record. Several GPUs: accelerate launch -m sotopia_rl_data train … (configurations in
    trainers/accelerate).
    """


@train.command()
@_trainer_options
@click.option("--targets", metavar="D,…", help="One head for each dimension, as in goal,relationship,knowledge.")
@click.option(
    "--packing", type=click.Choice(["auto", "tree", "none"]), help="Share prefixes within an agent's episode."
)
def rm(store: Store, as_json: bool, output: Path | None, **options: Any) -> None:
    """A reward model that regresses `reward` by mean squared error (Sotopia-RL, Eq. 5).

    \b
    Example:
      sotopia-rl-data train rm --dataset lab/episodes-rewards@v1.0.0 --model Qwen/Qwen2.5-7B-Instruct --preset paper
    """
    _train("rm", api.train_rm, store, output, options, as_json)


@train.command()
@_trainer_options
def sft(store: Store, as_json: bool, output: Path | None, **options: Any) -> None:
    """Behaviour cloning on prompt and completion; `--where` chooses the rows to imitate.

    \b
    Example:
      sotopia-rl-data train sft --dataset lab/episodes-rewards --model Qwen/Qwen2.5-7B-Instruct --where "reward >= 0.7"
    """
    _train("sft", api.train_sft, store, output, options, as_json)


@train.command()
@_trainer_options
@_adapter_option
def dpo(store: Store, as_json: bool, output: Path | None, **options: Any) -> None:
    """DPO: of the completions of a prompt, the one with the highest reward is preferred to the one with the lowest.

    The dataset must have prompts with several completions, as have episodes of one scene that was played several times
    (the opening turns), and imported rows of prompt, chosen and rejected.

    \b
    Example:
      sotopia-rl-data train dpo --dataset lab/episodes-rewards --model Qwen/Qwen2.5-7B-Instruct \\
        --policy-adapter runs/sft-episodes-rewards
    """
    _train("dpo", api.train_dpo, store, output, options, as_json)


@train.command()
@_trainer_options
@_adapter_option
@click.option(
    "--reward-model",
    required=True,
    metavar="DIR|ID[@REV]",
    help="A folder that `train rm` wrote, a Hub id, or the URL of a server of `serve`.",
)
@click.option(
    "--held-out-judge",
    metavar="DIR|ID|URL",
    help="Judges held-out answers, and is not trained on: see --stop-on-hacking.",
)
@click.option(
    "--stop-on-hacking", is_flag=True, default=None, help="Stop where the reward rises and the held-out judge does not."
)
def grpo(store: Store, as_json: bool, output: Path | None, **options: Any) -> None:
    """Single-turn GRPO over the dataset's prompts, rewarded by a reward model of `train rm`, or by a server.

    A server (`serve`, also with a judge) gets the token in SOTOPIA_RL_DATA_REWARD_TOKEN. A completion for which it has
    no reward is left out of the step.

    \b
    Examples:
      sotopia-rl-data train grpo --dataset lab/episodes-rewards --model Qwen/Qwen2.5-7B-Instruct \\
        --policy-adapter runs/sft-episodes-rewards --reward-model runs/rm-episodes-rewards
      sotopia-rl-data train grpo --dataset lab/episodes-rewards --model Qwen/Qwen2.5-0.5B-Instruct \\
        --reward-model http://127.0.0.1:8000
    """
    _train("grpo", api.train_grpo, store, output, options, as_json)


def _train(
    kind: str,
    trainer: Callable[[Any], dict[str, Any]],
    store: Store,
    output: Path | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Train in a folder, by default runs/KIND-DATASET, and show the run; with --plan, only show what it would take. A
    Ctrl-C says what of a run is kept."""
    is_planned, gpus = options.pop("plan"), options.pop("gpus")
    ref = parse(options["dataset"])
    name = ref.path.resolve().parent.name if ref.path else ref.name.rpartition("/")[2]
    folder = output or Path("runs") / f"{kind}-{name}"
    try:
        config = _configuration(kind, store, folder, options)
        if is_planned:
            plan.show(api.plan(config, gpus), as_json)
            return
        record = trainer(config)
    except KeyboardInterrupt as interrupt:
        raise _interrupted(folder) from interrupt
    _finish(config, record, as_json)


def _interrupted(folder: Path) -> Interrupted:
    from sotopia_rl_data.trainers.run_folder import RunFolder

    checkpoint = RunFolder.existing(folder).last_checkpoint() if folder.is_dir() else None
    if checkpoint is None:
        return Interrupted("Interrupted before a checkpoint was saved.", "run the same command again: it starts anew")
    words = click.get_current_context().meta[console.WORDS]
    resume = shlex.join([*(word for word in words if word != "--resume"), "--resume"])
    return Interrupted(f"Interrupted; {checkpoint} is kept.", f"go on from there: sotopia-rl-data {resume}")


def _configuration(kind: str, store: Store, folder: Path, options: dict[str, Any]) -> Any:
    """The trainer's configuration. A wrong setting is an error before anything heavy is imported."""
    from sotopia_rl_data.trainers.settings import CLASSES, values_of

    preset, file, settings = (options.pop(source) for source in ("preset", "config", "settings"))
    options |= {"store": store.address, "output_dir": str(folder)}
    values = values_of(kind, preset=preset, file=file, options=options, assignments=settings)
    missing = not values.get("model")  # --config and --set name it too
    if missing and preset != "tiny":
        raise UsageError(
            "No model to train is named.",
            "add --model with a folder or a model of the Hub; or, to try it in a minute, --preset tiny",
        )
    if kind in ("rm", "dpo") and not values.get("targets"):
        from sotopia_rl_data.trainers.data import check_rewarded

        check_rewarded(values["dataset"], values["store"])  # before torch is imported and a model made
    api.quiet_libraries(console.has_bars())
    if missing:
        from sotopia_rl_data.trainers.tiny import model_for_samples

        options["model"] = str(model_for_samples(_TINY_MODEL))
    from sotopia_rl_data.trainers import config

    chosen = getattr(config, CLASSES[kind])
    return config.configure(chosen, preset=preset, file=file, options=options, settings=settings)


def _is_later_process() -> bool:
    """Whether this is one of several processes, but not the first, which alone prints and releases."""
    return os.environ.get("RANK", "0") != "0"


def _finish(config: TrainerConfig, record: dict[str, Any], as_json: bool) -> None:
    """Release the model where a name for it is set, and show the run's record."""
    if _is_later_process():
        return
    folder = Path(config.output_dir)
    if config.release_as:
        record["release"] = api.release(folder, config.release_as)
    if as_json:
        console.emit_json(record)
        return
    _show_run(folder, record, wide=False)
    if config.release_as:
        console.note("{state}: {repo}@{version} (commit {commit})".format(**record["release"]))
    console.next_commands(f"sotopia-rl-data inspect {shlex.quote(str(folder))}", *_following(folder, record))


@click.command()
@console.ref_argument("ref")
@click.option(
    "--reward-model", required=True, metavar="DIR|ID[@REV]", help="A folder that `train rm` wrote, or a Hub id."
)
@console.dataset_option("--out", "Write to another dataset.  [default: the next version of REF's]")
@asking.shard_option("Score part I of N of the rows, keep the scores in the ledger, and make no version.")
@asking.workers
@asking.kept
@console.store_option
@console.json_option
def score(
    ref: str,
    reward_model: str,
    out: str | None,
    shard: Shard | None,
    workers: Any,
    worker_gpus: float | None,
    ledger: Path | None,
    store: Store,
    as_json: bool,
) -> None:
    """Add a reward model's scores to REF as a new version: one more judge, named by the model and its revision.

    Scores are kept as they come, so a run that was killed goes on where it was. Several GPUs: accelerate launch -m
    sotopia_rl_data score … has each process score a part, and the first one write the version.

    \b
    Examples:
      sotopia-rl-data score lab/episodes-rewards --reward-model lab/reward-model@v1.0.0
      sotopia-rl-data score lab/episodes-rewards --reward-model ./runs/rm --shard 3/8 --ledger shards/3
    """
    api.quiet_libraries(console.has_bars())
    device: Any = asking.workers_of({"workers": workers, "worker_gpus": worker_gpus})
    if device is not None and shard is not None:
        raise UsageError("Workers score all parts, so --shard does not go with --on.", "leave one of them out")
    scored = api.score(
        ref,
        reward_model,
        store=store.address,
        out=out,
        shard=shard,
        ledger=ledger,
        display=store.display,
        device=device,
    )
    if _is_later_process():
        return
    if as_json:
        console.emit_json(scored)
        return
    if shard is not None:
        told = "{rows:,} scores of shard {shard} by {judge} are in {ledger}, {hits:,} of them from before"
        console.note(told.format(**scored))
        return
    unchanged = "" if scored["created"] else ", unchanged"
    console.note(f"{scored['ref']}: {scored['rows']:,} scores by {scored['judge']}{unchanged}")
    console.next_commands(f"sotopia-rl-data report {scored['ref']} -o report.html")


@click.command()
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", metavar="REF", help="With several runs: whose rows and rewards.  [default: the first run's]")
@click.option("--split", default="test", show_default=True, help="With several runs: which split of it.")
@console.wide_option
@console.store_option
@console.json_option
def inspect(runs: tuple[Path, ...], dataset: str | None, split: str, wide: bool, store: Store, as_json: bool) -> None:
    """A training run: what it was trained on, its metrics beside the baselines, where its release is.

    Several runs of reward models are set side by side: each scores the same held-out rows. Intervals (95 %) resample
    whole episodes; the difference to the first run is resampled in pairs.

    \b
    Examples:
      sotopia-rl-data inspect runs/rm-episodes-rewards
      sotopia-rl-data inspect runs/rm-direct runs/rm-scaled runs/rm-uniform --dataset lab/episodes-rewards
    """
    if len(runs) > 1:
        api.quiet_libraries(console.has_bars())
        compared = api.compare(runs, dataset=dataset, split=split, store=store.address, display=store.display)
        if as_json:
            console.emit_json(compared)
        else:
            _show_side_by_side(compared)
        return
    (run,) = runs
    record = api.inspect_run(run)
    if as_json:
        console.emit_json(record)
        return
    _show_run(run, record, wide)
    console.next_commands(*_following(run, record))


def _show_side_by_side(compared: dict[str, Any]) -> None:
    """A row for each run: each metric with its interval, and whether it differs from the first run's."""
    from sotopia_rl_data.cards.model import in_words

    metrics = list(compared["runs"][0]["metrics"])
    rows = []
    for number, of_run in enumerate(compared["runs"]):
        cells = [_with_interval(of_run["metrics"][name], is_first=not number) for name in metrics]
        rows.append([of_run["run"], of_run["trained_on"], *cells])
    title = f"{compared['dataset']}, {compared['split']}: {compared['rows']:,} rows, {compared['episodes']:,} episodes"
    console.table(["run", "trained on", *map(in_words, metrics)], rows, title=title)
    console.note("95 % intervals resample whole episodes; + and -: above and below the first run in 95 % of them.")
    for text in compared["warnings"]:
        console.warn(text)


def _with_interval(figure: dict[str, float | None], is_first: bool) -> str | None:
    if figure["value"] is None:
        return None
    text = f"{figure['value']:.3g}"
    if figure["low"] is not None:
        text += f" [{figure['low']:.3g}, {figure['high']:.3g}]"
    low, high = figure["difference_low"], figure["difference_high"]
    if is_first or low is None or high is None or low <= 0 <= high:
        return text
    return f"{text} {'+' if low > 0 else '-'}"


_TRAINED = {
    "rm": "a reward model",
    "sft": "a policy, by behaviour cloning",
    "dpo": "a policy, by DPO",
    "grpo": "a policy, by GRPO",
}


def _show_run(folder: Path, record: dict[str, Any], wide: bool) -> None:
    from sotopia_rl_data.cards.model import scorecard

    console.table(["", ""], [["trained", _TRAINED[record["kind"]]], *_facts(record)], title=str(folder))
    spare, shown = () if wide else ("train mean", "95 % interval"), set[str]()
    for split, metrics in record.get("metrics", {}).items():
        if metrics:
            shown |= set(console.table(*scorecard(metrics), title=split, spare=spare))
    guessed = [column for column in ("train mean", "train mean by turn") if column in shown]
    if guessed:
        console.note(f"{', '.join(guessed)}: of whoever always guesses that")


def _following(folder: Path, record: dict[str, Any]) -> list[str]:
    """The commands that use the model of a run."""
    dataset, base = f"{record['dataset']['name']}@{record['dataset']['version']}", str(record["model"])
    run = str(folder if folder.is_absolute() else f"./{folder}")
    if record["kind"] == "rm":
        preset = record.get("config", {}).get("preset")
        sized = ["--preset", preset] if preset else []  # else the next run takes hours where this one took seconds
        grpo = ["train", "grpo", *sized, "--dataset", dataset, "--model", base, "--reward-model", run]
        return [f"sotopia-rl-data {shlex.join(words)}" for words in (["score", dataset, "--reward-model", run], grpo)]
    policy = f"{base}+{run}" if (folder / "adapter_config.json").exists() else run
    selfplay = ["rollout", "--a", f"transformers:{policy}", "--out", f"{record['dataset']['name']}-selfplay"]
    return [f"sotopia-rl-data {shlex.join(selfplay)}"]


def _facts(record: dict[str, Any]) -> list[list[Any]]:
    dataset, best, released = record["dataset"], record.get("best") or {}, record.get("release")
    cut, hacking = record.get("cut", {}), (record.get("held_out") or {}).get("hacking")
    commit = f"  commit {dataset['commit'][:12]}" if dataset.get("commit") else ""
    facts = [
        ["model", record["model"]],
        ["policy adapter", record.get("policy_adapter")],
        ["reward model", (record.get("reward_model") or {}).get("identity")],
        [
            "hacking",
            hacking
            and "reward {reward_gain:+.2f}, held-out judge {judge_gain:+.2f} standard deviations".format(**hacking),
        ],
        ["dataset", f"{dataset['name']}@{dataset['version']}  digest {dataset['digest'][:12]}{commit}"],
        *[[f"rows {split}", rows] for split, rows in record.get("rows", {}).items()],
        *[[f"pairs {split}", pairs] for split, pairs in (record.get("pairs") or {}).items()],
        *[[f"dropped: {reason}", rows or None] for reason, rows in record.get("dropped", {}).items()],
        ["cut prompts", cut.get("prompts") or None],
        ["too long", cut.get("too_long") or None],
        ["packing", (record.get("packing") or {}).get("rows")],
        ["kept step", best.get("step")],
        ["seconds", record.get("seconds")],
        ["released", f"{released['repo']}@{released['version']}" if released else None],
    ]
    return [fact for fact in facts if fact[1] is not None]
