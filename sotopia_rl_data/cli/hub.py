"""The commands for the Hub: card, push-to-hub, pull. They are thin: `cards/` renders a card, `hub/` does the rest."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sotopia_rl_data.cli import console
from sotopia_rl_data.display import MISSING, Advance
from sotopia_rl_data.errors import UsageError
from sotopia_rl_data.hub.resolve import fetch, resolve
from sotopia_rl_data.refs import parse

if TYPE_CHECKING:
    from rich.markdown import Markdown

    from sotopia_rl_data.hub.client import Hub
    from sotopia_rl_data.hub.pull import Pulled
    from sotopia_rl_data.hub.push import OnStep, Pushed
    from sotopia_rl_data.store import Store, Version

_LISTED = 20


@click.command()
@console.ref_argument("ref")
@console.output_option("Write README.md, its pictures and croissant.json there.", required=False, folder=True)
@click.option("--write", is_flag=True, help="Write them into the version itself, where people can edit the prose.")
@click.option("--repo", metavar="ORG/NAME", help="As the card of this repository.  [default: the dataset's name]")
@console.store_option
@console.json_option
def card(ref: str, output: Path | None, write: bool, repo: str | None, store: Store, as_json: bool) -> None:
    """The dataset card of REF: what a row is, how to load it, where it comes from, statistics with pictures.

    Shown in the terminal, or written. The front matter's `configs`, `size_categories` and `dataset_info` and the block
    between the two marks are the tool's, written anew for every version; licence, tags and all other prose are yours,
    and survive every version and release.

    \b
    Examples:
      sotopia-rl-data card demo/episodes-rewards
      sotopia-rl-data card demo/episodes-rewards -o card
      sotopia-rl-data card demo/episodes-rewards --write
    """
    from sotopia_rl_data.cards.dataset import dataset_card
    from sotopia_rl_data.credit.bench_card import credit_section
    from sotopia_rl_data.store import readme
    from sotopia_rl_data.store.disk import storing

    if write:
        store.check_writable()
    version = resolve(store, ref)
    new_card = dataset_card(version, repo, credit=credit_section(store, version))
    text = readme.merge(new_card, readme.read(version.dir))
    folders = [] if output is None else [output]
    if write:
        folders.append(version.dir)
    for folder in folders:
        with storing(folder, "folder", "another folder with -o DIR"):
            folder.mkdir(parents=True, exist_ok=True)
            readme.write(folder, text, new_card)
    if write:
        version.keep_notes()
    if as_json:
        console.emit_json(
            {"version": version.ref, "text": text, "pictures": sorted(new_card.pictures), "written": folders}
        )
    elif folders:
        for folder in folders:
            console.note(f"wrote {folder / readme.FILE_NAME} (pictures: {len(new_card.pictures)})")
    elif sys.stdout.isatty():
        _show_markdown(readme.split_front(text)[1])
    else:
        click.echo(text, nl=False)


def _show_markdown(text: str) -> None:
    """Markdown on a terminal; its tables as other tables are shown there, whole on any screen."""
    from rich.markdown import Markdown

    from sotopia_rl_data.screen import Screen

    screen = Screen()
    text = screen.plain(re.sub(r"!\[([^]]*)\]\([^)]*\)", r"(a picture: \1)", text))
    lines, shown, lacking = text.split("\n"), 0, ("", screen.plain(MISSING))
    for first, after, (head, *rows) in _tables(Markdown(text)):
        screen.print(Markdown("\n".join(lines[shown:first]), hyperlinks=False))
        console.table(head, [[None if value in lacking else value for value in row] for row in rows])
        shown = after
    screen.print(Markdown("\n".join(lines[shown:]), hyperlinks=False))


def _tables(markdown: Markdown) -> Iterator[tuple[int, int, list[list[str]]]]:
    """Each table that is in no list or quotation: its first line, the line after it, and its rows, the head first."""
    table, rows = None, list[list[str]]()
    for token in markdown.parsed:
        if token.type == "table_open" and token.level == 0:
            table, rows = token, []
        elif table and token.type == "tr_open":
            rows.append([])
        elif table and token.type == "inline":
            rows[-1].append(token.content.strip(" `"))
        elif table and table.map and token.type == "table_close":
            yield table.map[0], table.map[1], rows
            table = None


@click.command("push-to-hub")
@console.ref_argument("ref")
@click.option("--repo", metavar="ORG/NAME", help="The repository.  [default: the dataset's name, or yours/NAME]")
@click.option("--private/--public", default=None, help="For a new repository.  [default: your account's]")
@click.option(
    "--create-pr", is_flag=True, help="Open a pull request and leave it open; run it again once it is merged."
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing: only GET and HEAD requests.")
@click.option("--message", metavar="TEXT", default="", help="Into the commit's description.")
@click.option(
    "--with-ledger", is_flag=True, help="Publish the calls behind the labels too, without addresses and keys."
)
@click.option("--allow-secrets", is_flag=True, help="Publish even what looks like keys, tokens or passwords.")
@click.option(
    "--check",
    type=click.Choice(["load", "files"]),
    default="load",
    show_default=True,
    help="After the push: also load_dataset the release in a throw-away cache, or compare its files only.",
)
@console.store_option
@console.json_option
def push_to_hub(
    ref: str,
    repo: str | None,
    private: bool | None,
    create_pr: bool,
    dry_run: bool,
    message: str,
    with_ledger: bool,
    allow_secrets: bool,
    check: str,
    store: Store,
    as_json: bool,
) -> None:
    """REF as a release on the Hugging Face Hub: one commit, then the tag vX.Y.Z; `main` is the latest release.

    Uploads the version's Parquet, its manifest and its card, and nothing else; removes what the release before had.
    A published version never changes: the same content again is a no-op, other content needs the next number.
    Interrupted or refused, `main` is the old release or the new one; run it again, and it finishes the job.

    \b
    Examples:
      sotopia-rl-data push-to-hub lab/negotiation --dry-run
      sotopia-rl-data push-to-hub lab/negotiation@v1.2.0 --private
      sotopia-rl-data push-to-hub demo/episodes-rewards --repo my-org/sotopia-rewards --message "First labels"
    """
    from sotopia_rl_data.cards.dataset import dataset_card
    from sotopia_rl_data.credit.bench_card import credit_section
    from sotopia_rl_data.hub.client import Hub, quiet
    from sotopia_rl_data.hub.push import PushOptions, push

    if not dry_run:
        store.check_writable()
    version = resolve(store, ref)
    hub = Hub()
    quiet(bars=console.has_bars())
    target = _repository(repo or version.name, hub)
    with ExitStack() as stack:
        calls = _calls(version, store, stack) if with_ledger else None
        options = PushOptions(private, create_pr, dry_run, message, allow_secrets, check == "load", calls)
        console.note(f"{version.ref} -> {hub.page(target)}")
        if version.manifest.recipe.get("speakers") == "named":
            console.warn(
                "its dialogues were imported with their speakers' names, and may be people's own words: publish them "
                "only where you may; `import --pseudonymise` replaces the names"
            )
        advance = stack.enter_context(_steps())
        new_card = dataset_card(version, target, credit=credit_section(store, version))
        pushed = push(version, new_card, hub, target, options, advance)
    for warning in pushed.warnings:
        console.warn(warning)
    if as_json:
        console.emit_json(pushed.as_dict() | {"card_diff": _difference(pushed)})
    else:
        _show(pushed, dry_run)


@click.command()
@console.ref_argument("ref")
@click.option(
    "--map",
    "columns",
    metavar="A=B,…",
    help="For a dataset of others: which columns are prompt, completion and reward, as in question=prompt.",
)
@click.option("--file", "pattern", metavar="GLOB", default="*", help="For a dataset of others: only these files.")
@click.option(
    "--sentinel",
    type=float,
    metavar="NUMBER",
    help="For a dataset of others: the reward that stands for none, as in -1.",
)
@console.store_option
@console.json_option
def pull(ref: str, columns: str | None, pattern: str, sentinel: float | None, store: Store, as_json: bool) -> None:
    """A dataset from the Hub into the store, checked file by file: the latest release, a version or a commit.

    What the store has already is not downloaded again. Every other command pulls by itself what its REF names and the
    store lacks; `pull` also refreshes what it has. Datasets of others are imported: the shapes of sotopia-rl's and
    sotopia-pi's training rows and of the sotopia library's exports are known, others need --map.

    \b
    Examples:
      sotopia-rl-data pull org/name
      sotopia-rl-data pull org/name@v1.2.0
      sotopia-rl-data pull ulab-ai/sotopia-rl-reward-annotation
      sotopia-rl-data pull org/other --map question=prompt,answer=completion,score=reward
    """
    from sotopia_rl_data.hub.foreign import parse_map

    reference = parse(ref)
    if reference.path is not None or "/" not in reference.name:
        raise UsageError(
            f"{ref!r} is not the name of a dataset on the Hub: that begins with an organisation or a user.",
            "write ORG/NAME, ORG/NAME@v1.2.0 or ORG/NAME@COMMIT",
        )
    mapped = parse_map(columns) if columns else None
    pulled = fetch(store, reference, columns=mapped, pattern=pattern, sentinel=sentinel)
    if as_json:
        console.emit_json(_pulled_dict(pulled))
        return
    version = pulled.version
    state = "pulled" if pulled.created else "unchanged: the store has this content already"
    console.table(
        ["config", "rows"],
        [[config, sum(split.rows for split in splits.values())] for config, splits in version.manifest.configs.items()],
        title=f"{version.ref}  {version.digest[:12]}  {state}",
    )
    console.next_commands(f"sotopia-rl-data show {version.ref}")


def _repository(name: str, hub: Hub) -> str:
    """ORG/NAME; a name without an organisation is put under the account of the token."""
    if name.count("/") > 1:
        raise UsageError(f"{name!r} has more than one '/', so it cannot name a repository.", "write --repo ORG/NAME")
    return name if "/" in name else f"{hub.user()}/{name}"


def _calls(version: Version, store: Store, stack: ExitStack) -> Mapping[str, Path]:
    from tempfile import TemporaryDirectory

    from sotopia_rl_data.hub.release import write_calls
    from sotopia_rl_data.ledger.ledger import Ledger

    folder = Path(stack.enter_context(TemporaryDirectory(prefix="sotopia-rl-data-calls-")))
    with Ledger(store.ledger) as ledger:
        return write_calls(version, ledger, folder)


@contextmanager
def _steps() -> Iterator[OnStep]:
    """A progress bar for each step of a push, one after the other."""
    with ExitStack() as stack:
        bars: dict[str, Advance] = {}

        def advance(step: str, done: int, total: int) -> None:
            if step == "upload" and console.has_bars():
                return  # huggingface_hub shows a bar of the uploaded bytes itself
            if step not in bars:
                stack.close()
                bars[step] = stack.enter_context(console.progress(step, "byte"))
            bars[step](done, total)

        yield advance


def _difference(pushed: Pushed) -> list[str]:
    """The diff from the card in the repository to the new card."""
    before, after = (text.splitlines() for text in (pushed.plan.remote.card, pushed.plan.card))
    return list(difflib.unified_diff(before, after, "README.md on the Hub", "README.md", lineterm="", n=1))


def _show(pushed: Pushed, dry_run: bool) -> None:
    plan, files = pushed.plan, pushed.release.files
    title = f"{pushed.repo}@{pushed.version}  {pushed.digest[:12]}  {pushed.state}"
    if dry_run and pushed.state == "planned":
        rows = [["add", path, files[path].size] for path in plan.adds]
        rows += [["delete", path, plan.remote.tree[path].size] for path in plan.deletes]
        rows += [["unchanged", path, files[path].size] for path in plan.unchanged]
        console.table(["", "file", "bytes"], rows, title=title)
        for line in _difference(pushed):
            click.echo(line)
        return
    sizes = (("added", plan.adds), ("unchanged", plan.unchanged))
    rows = [[name, len(paths), sum(files[path].size for path in paths)] for name, paths in sizes]
    rows.append(["deleted", len(plan.deletes), sum(plan.remote.tree[path].size for path in plan.deletes)])
    console.table(["files", "count", "bytes"], rows, title=title)
    if pushed.rows is not None:
        loaded = {config: sum(splits.values()) for config, splits in pushed.rows.items() if config}
        console.note("load_dataset gives " + ", ".join(f"{rows:,} {config}" for config, rows in loaded.items()))
    console.note(f"{pushed.state}: {pushed.url}" + (f" (commit {pushed.commit})" if pushed.commit else ""))
    if pushed.pull is not None:
        console.note("Once it is merged, run the same command again: it sets the tag.")
    elif pushed.commit:
        console.next_commands(f"sotopia-rl-data pull {pushed.repo}@{pushed.version}")


def _pulled_dict(pulled: Pulled) -> dict[str, Any]:
    version = pulled.version
    return {
        "version": version.ref,
        "digest": version.digest,
        "commit": pulled.commit,
        "created": pulled.created,
        "downloaded": pulled.downloaded,
        "linked": pulled.linked,
        "directory": str(version.dir),
    }
