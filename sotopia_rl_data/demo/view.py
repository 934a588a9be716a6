"""A talk as HTML: the scene, the dialogue with its chips, the candidates of best-of-N, the end as the report shows it.

Text of people and models is only ever text: what means something in HTML, in the page's templates or to the direction
of the text is written as a character reference or shown by its number.
"""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Sequence

from sotopia_rl_data.demo.saving import save
from sotopia_rl_data.demo.session import Candidate, DemoSession, TurnReward
from sotopia_rl_data.errors import SotopiaDataError
from sotopia_rl_data.prompts import Layout
from sotopia_rl_data.report.contents import contents
from sotopia_rl_data.report.page import SCRIPTS, asset, document
from sotopia_rl_data.rollouts.actions import dialect
from sotopia_rl_data.schema import Turn
from sotopia_rl_data.secrets import redact, without_urls
from sotopia_rl_data.spans import without_tags
from sotopia_rl_data.store import Store

# Controls and marks that turn the direction of what follows, as in the report's tools.js.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_TEMPLATES = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
# From terracotta over grey to teal, as in the report.
_STOPS = ((196, 85, 59), (221, 160, 132), (188, 184, 175), (118, 170, 163), (31, 122, 116))
_ONE_DIALOGUE = """
#head, #bar, #overview, #trust, #dialogues > :first-child { display: none; }
main { padding: 0; } #dialogues { display: block; height: auto; min-height: 0; }
"""
_DONE = {"none": "does nothing", "leave": "leaves the conversation"}
_SHORT = {"financial_and_material_benefits": "benefits", "social_rules": "rules"}


def text(value: str) -> str:
    """`value` as HTML that shows it and obeys nothing in it."""
    parts = _HIDDEN.split(value)
    marks = [f'<span class="control">U+{ord(mark):04X}</span>' for mark in _HIDDEN.findall(value)]
    shown = [html.escape(part).translate(_TEMPLATES) for part in parts]
    return shown[0] + "".join(mark + part for mark, part in zip(marks, shown[1:], strict=True))


def sentence(error: SotopiaDataError) -> str:
    """What a visitor is told of an error: without addresses of servers and without keys."""
    return without_urls(redact(error.message), "its provider")


def status(told: str, bad: bool = False, spoken: str = "") -> str:
    """A line about what happens, or went wrong; what is `spoken` is heard and not seen."""
    before = f'<span class="spoken">{text(spoken)}</span>' if spoken else ""
    return f'<p class="status{" bad" if bad else ""}">{before}{text(told)}</p>'


def heard(session: DemoSession) -> str:
    """The latest utterance of others, for people who hear the page."""
    said = [one for one in session.episode.turns if one.agent != session.agent][-1:]
    return "".join(
        f"{session.scene.person(one.agent).name}: {one.text or _DONE.get(one.action_type, '')} " for one in said
    )


def about(session: DemoSession) -> str:
    """What the person has to know: the scene, who they are, what they want, and all that they may see of the others."""
    scene, place = session.scene, session.scene.agents.index(session.agent)
    me, rules = scene.people[place], session.rules
    return (
        f'<h2 dir="auto">You are {text(me.name)}</h2>'
        f'<p class="scene" dir="auto">{text(without_tags(scene.environment.scenario))}</p>'
        f'<p class="goal" dir="auto"><b>Your goal:</b> {text(without_tags(scene.environment.goals[place]))}</p>'
        "<details><summary>All that you know</summary>"
        f'<p class="known" dir="auto">{text(scene.opening(place, dialect(rules.dialect)).strip())}</p></details>'
    )


def dialogue(session: DemoSession | None) -> str:
    """Every utterance with its reward and its parts as chips."""
    if session is None:
        return '<p class="empty">Choose a scenario and begin.</p>'
    turns = session.episode.turns
    items = "".join(_utterance(session, one) for one in turns)
    if not turns:
        items = '<li class="empty">Nothing was said yet: it is your turn.</li>'
    ended = '<p class="over">The scene is over.</p>' if session.over else ""
    return f'<div class="log" role="log" aria-label="Dialogue" tabindex="0"><ol class="turns">{items}</ol></div>{ended}'


def candidates(session: DemoSession, turn: int, found: Sequence[Candidate]) -> str:
    """The drafts of best-of-N at a turn, best first."""
    said = {(one.agent, one.action_type, one.text) for one in session.episode.turns if one.turn == turn}
    items = []
    for one in found:
        marks = ["best"] * one.kept
        marks += ["what was said"] * ((one.turn.agent, one.turn.action_type, one.turn.text) in said)
        noted = "".join(f'<span class="mark">{mark}</span>' for mark in marks)
        chips = "" if one.reward is None else _chips(session, one.reward)
        items.append(f'<li class="{"kept" if one.kept else ""}">{noted}{_words(one.turn)}{chips}</li>')
    name = text(session.scene.person(found[0].turn.agent).name)
    return f'<h3 dir="auto">Drafts for {name} at turn {turn}</h3><ol class="drafts">{"".join(items)}</ol>'


def scores(session: DemoSession) -> str:
    """SOTOPIA-EVAL, a table with a row for each dimension."""
    if session.scores is None:
        return ""
    agents = session.scene.agents
    names = dict.fromkeys(one.dimension for one in session.scores.scores)
    given = {(one.dimension, one.agent): f"{one.score:g}" for one in session.scores.scores}
    head = "".join(f'<th scope="col" dir="auto">{text(session.scene.person(one).name)}</th>' for one in agents)
    rows = "".join(
        f'<tr><th scope="row">{_called(name)}</th>'
        + "".join(f"<td>{given.get((name, agent), '–')}</td>" for agent in agents)
        + "</tr>"
        for name in names
    )
    lost = "".join(status(f"Some scores are missing: {one}.", bad=True) for one in session.scores.lost)
    table = f'<table><thead><tr><th scope="col">SOTOPIA-EVAL</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return (table if names else "") + lost


def as_reported(session: DemoSession, layout: Layout) -> str:
    """The dialogue as `report` shows it, in a frame of its own that loads nothing."""
    with tempfile.TemporaryDirectory() as folder:
        found = contents(save(Store(folder), "demo/talk", session, layout))
    styles = [asset("style.css"), _ONE_DIALOGUE]
    page = document("The dialogue", found, styles=styles, scripts=map(asset, SCRIPTS))
    framed = html.escape(page).translate(_TEMPLATES)
    title = "The dialogue as the report shows it"
    return f'<h3>{title}</h3><iframe sandbox="allow-scripts" title="{title}" srcdoc="{framed}"></iframe>'


def _utterance(session: DemoSession, turn: Turn) -> str:
    mine = " mine" if turn.agent == session.agent else ""
    reward = session.rewards.get((turn.turn, turn.agent))
    name = text(session.scene.person(turn.agent).name)
    if reward is not None:
        chips = _chips(session, reward)
    else:
        chips = '<div class="chips"><span class="chip waiting">reward …</span></div>' if session.source else ""
    share = _share(session, None if reward is None else reward.reward)
    colour = "" if share is None else f' style="--c: {_colour(share)}"'
    return (
        f'<li class="turn{mine}" data-turn="{turn.turn}"{colour}><div class="who" dir="auto">{name}'
        f" <span>turn {turn.turn}</span></div>{_words(turn)}{chips}</li>"
    )


def _words(turn: Turn) -> str:
    if turn.failed:
        return '<div class="words act">(an answer that could not be read)</div>'
    if turn.action_type in _DONE:
        return f'<div class="words act">{_DONE[turn.action_type]}</div>'
    note = "" if turn.action_type == "speak" else f"[{turn.action_type}] "
    return f'<div class="words{" act" if note else ""}" dir="auto">{note}{text(turn.text)}</div>'


def _chips(session: DemoSession, found: TurnReward) -> str:
    if found.reward is None:
        return '<div class="chips"><span class="chip none">no reward: an answer could not be used</span></div>'
    chips = "".join(
        f'<span class="chip" style="--c: {_colour(_share(session, value))}">{_called(name)} {_number(value)}</span>'
        for name, value in found.parts.items()
        if len(found.parts) > 1
    )
    total = f'<span class="chip total" style="--c: {_colour(_share(session, found.reward))}">'
    return f'<div class="chips">{total}reward {_number(found.reward)}</span>{chips}</div>'


def _called(dimension: str) -> str:
    return text(_SHORT.get(dimension, dimension).replace("_", " "))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _share(session: DemoSession, value: float | None) -> float | None:
    """Where a reward lies from 0 to 1: by a judge it is a share already; by a model, among those of the dialogue."""
    if value is None:
        return None
    if session.rewarded_from_0_to_1:
        return value
    known = [one.reward for one in session.rewards.values() if one.reward is not None]
    low, high = min([*known, value]), max([*known, value])
    return (value - low) / (high - low) if high > low else 0.5


def _colour(share: float | None) -> str:
    if share is None:
        return "rgb(188 184 175)"
    at = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    low = min(int(at), len(_STOPS) - 2)
    mixed = [round(a + (b - a) * (at - low)) for a, b in zip(_STOPS[low], _STOPS[low + 1], strict=True)]
    return f"rgb({mixed[0]} {mixed[1]} {mixed[2]})"
