"""The section of a dataset's card that says how right its credit is, where it is about known games of its store."""

from __future__ import annotations

from sotopia_rl_data.cards.markdown import code, count, plain, table
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
    points = checklist(measured, games, [version])
    return _section(measured, markdown([one._replace(answer=plain(one.answer)) for one in points]))


def _games_of(store: Store, version: Version) -> Version | None:
    """The version of known games that this one was made of, directly or not. A manifest may name any parents, itself
    too: each is followed once."""
    line, known = [version], {version.ref}
    for one in line:
        if "truth" in one.manifest.configs:
            return one
        for parent in one.manifest.provenance.get("parents", []):
            ref = f"{parent['name']}@{parent['version']}"
            if ref in known:
                continue
            known.add(ref)
            try:
                found = store.resolve(ref)
            except SotopiaDataError:
                continue
            if found.digest == parent["digest"]:
                line.append(found)
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
