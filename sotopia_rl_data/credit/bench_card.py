"""The section of a dataset's card that says how right its credit is, where it is about known games of its store."""

from __future__ import annotations

from sotopia_rl_data.cards.markdown import code, count, table
from sotopia_rl_data.credit.bench import Bench, bench
from sotopia_rl_data.credit.checklist import checklist, markdown
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.store import Store, Version

_COLUMNS = ("schema", "rule", "judge", "tau", "from", "to", "tau of the oracle", "pivotal turns found", "signs right")


def credit_section(store: Store, version: Version) -> str:
    """The section as Markdown; "" where the version has no attributions, or its games are not in the store."""
    games = _games_of(store, version) if "attributions" in version.manifest.configs else None
    if games is None:
        return ""
    try:
        measured = bench(games, [version])
    except SotopiaDataError:  # it is about some of the games, or about other episodes too
        return ""
    return _section(measured, markdown(checklist(measured, games, [version])))


def _games_of(store: Store, version: Version) -> Version | None:
    """The version of known games that this one was made of, directly or not."""
    if "truth" in version.manifest.configs:
        return version
    for parent in version.manifest.provenance.get("parents", []):
        try:
            found = store.resolve(f"{parent['name']}@{parent['version']}")
        except (SotopiaDataError, KeyError):
            continue
        games = _games_of(store, found) if found.digest == parent.get("digest") else None
        if games is not None:
            return games
    return None


def _section(measured: Bench, points: str) -> str:
    rows = []
    for line in measured.lines:
        near, method = line.nearness, line.method
        figures = [near.tau.value, near.tau.low, near.tau.high, line.ceiling_tau, near.hit.value, near.sign.value]
        who = code(method.judge) if method.judge else None
        rows.append(
            [code(method.schema), code(method.rule), who, *(None if f is None else round(f, 3) for f in figures)]
        )
    return (
        "\n## How right this credit is\n\n"
        f"The dialogues are {count(measured.episodes, 'known game')}, whose every turn has a known worth. `tau` is the "
        "rank correlation of an agent's turns with it, and stands between `from` and `to` in 95 % of resampled "
        "games.\n\n" + table(_COLUMNS, rows) + f"\n\n{points}\n"
    )
