"""The page of the demo, in Gradio, and the application that serves it.

Each step is an event of its own, so that what is known is seen at once: what the person says, then the policy's answer,
then the rewards. A person may go on while rewards are on their way. All events of a page come by one stream, which is
kept open (`_stay`): Gradio 6.31 closes it when no event is under way, and a page that asks for something at that moment
waits on the closed one for an answer that has come. A browser has six connections to a server, which all its pages
share, and six open streams would leave none to ask by. So Gradio's heartbeat, a second stream, is off, and a page that
nobody sees lets `_stay` end: its stream is closed once what is under way has come, and is opened when it is seen again.

Neither the server nor the page contacts anybody: Gradio's telemetry is off, fonts are the visitor's own, and the page's
policy lets a browser load from here alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

from sotopia_rl_data.demo import view
from sotopia_rl_data.demo.host import DemoHost
from sotopia_rl_data.demo.saving import save
from sotopia_rl_data.demo.session import MOST_CHARACTERS, PERSON, DemoSession
from sotopia_rl_data.errors import SotopiaDataError, UsageError
from sotopia_rl_data.rollouts.scene import Scene

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported, and later

import gradio as gr
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

TITLE = "Talk to a policy"
DRAFTS = 4
_AT_ONCE = 40  # events of a kind
_AWAKE_S = 15  # seconds after which somebody who has gone is noticed
_KEPT_S = (
    86_400  # seconds that a dialogue is kept from its beginning: Gradio does not know whether somebody is still there
)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
_ACTIONS = (
    ("say", "speak"),
    ("gesture", "non-verbal communication"),
    ("do", "action"),
    ("nothing", "none"),
    ("leave", "leave"),
)
# Runs once for an element, whose content is replaced afterwards.
_SCROLLED = """new MutationObserver(() => {
  const log = element.querySelector('.log');
  if (log) log.scrollTop = log.scrollHeight;
}).observe(element, { childList: true, subtree: true });"""
_SPOKEN = "element.setAttribute('role', 'status');"
# In Gradio 6.31 a menu's list of options has no name, and Tab goes to a long one, since it scrolls: there the focus is
# lost, because the list closes. (It also stays when Tab leaves the menu: see demo.css.)
_MENUS = """document.addEventListener('focusin', event => {
  if (event.target.getAttribute('role') === 'combobox') setTimeout(() => {
    const list = document.getElementById(event.target.getAttribute('aria-controls'));
    if (list) { list.setAttribute('aria-label', event.target.getAttribute('aria-label')); list.tabIndex = -1; }
  });
});"""
_SEEN = """document.addEventListener('visibilitychange', () => trigger(document.hidden ? 'pause' : 'play'));
if (!document.hidden) trigger('play');"""
_FONT = ("ui-sans-serif", "system-ui", "sans-serif")

Shown = tuple[Any, ...]


def demo_app(host: DemoHost) -> FastAPI:
    """The application, at `/`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    app.add_middleware(_WithPolicy)
    theme = gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", font=_FONT, font_mono=("ui-monospace", "monospace")
    )
    blocks = page(host)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        blocks,
        "/",
        show_error=False,  # an unforeseen one is logged here, and not told to visitors
        max_file_size="1kb",  # Gradio takes files whatever the page has, and nobody has to send one
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=theme,
        css=(files("sotopia_rl_data") / "demo" / "assets" / "demo.css").read_text("utf-8"),
        head='<meta name="color-scheme" content="light dark">',
    )
    blocks.config["connect_heartbeat"] = False  # see above
    return mounted


class _WithPolicy:
    """Puts the page's policy on every response, and lets streams through as they come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, sent)


def page(host: DemoHost) -> gr.Blocks:
    """The page's components and events."""
    steps, choices = _Steps(host), host.choices
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        state = gr.State(None, time_to_live=_KEPT_S)
        top = gr.HTML(_introduction(host), js_on_load=_MENUS + _SEEN)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                scene = _menu("Scenario", [(_title(one), i) for i, one in enumerate(choices.scenes)])
                place = gr.Radio(_people(choices.scenes[0]), value=0, label="You are")
                policy = _menu("You talk to", [(name, name) for name in choices.policies])
                nobody = [] if choices.sources else [("nobody", "")]
                source = _menu("Rewards by", [(name, name) for name in choices.sources] + nobody)
                begin = gr.Button("Begin", variant="primary")
                told = gr.HTML("", js_on_load=None)
            with gr.Column(scale=5, min_width=300):
                talk = gr.HTML(view.dialogue(None), js_on_load=_SCROLLED)
                status = gr.HTML(view.status(""), js_on_load=_SPOKEN)
                with gr.Row(equal_height=True):
                    kind = gr.Radio(list(_ACTIONS), value="speak", label="What you do", elem_id="kind")
                words = gr.Textbox(
                    label="Your words",
                    max_length=MOST_CHARACTERS,
                    lines=1,
                    max_lines=6,
                    elem_id="words",
                )
                with gr.Row():
                    send = gr.Button("Send", variant="primary", elem_id="send")
                    again = gr.Button("Ask again", elem_id="again")
                with gr.Accordion(f"What would best-of-{DRAFTS} have said?", open=False):
                    turn = gr.Dropdown([], label="At turn", elem_id="turn", filterable=False)
                    best = gr.Button(f"Draw {DRAFTS} drafts", elem_id="best")
                    drafts = gr.HTML("", js_on_load=None)
                with gr.Accordion("The end: SOTOPIA-EVAL, and saving", open=False):
                    judge = _menu("Evaluated by", [(name, name) for name in choices.judges] or [("nobody", "")])
                    with gr.Row():
                        evaluate = gr.Button("End and evaluate", elem_id="evaluate")
                        keep = gr.Button("Save", elem_id="save")
                    end = gr.HTML("", js_on_load=None)
        shown: list[Any] = [talk, status, turn]
        stays = top.play(_stay, api_name=False, show_progress="hidden", concurrency_limit=None)
        top.pause(None, cancels=stays, api_name=False)
        scene.change(steps.people, scene, place, api_name=False, show_progress="hidden")
        begin.click(
            steps.begin, [scene, place, policy, source], [state, told, drafts, end, *shown], api_name="begin", **_EVENT
        )
        said = gr.on(
            [send.click, words.submit], steps.say, [state, kind, words], [words, kind, *shown], api_name="say", **_EVENT
        )
        looked = again.click(steps.look, state, shown, api_name="look", **_EVENT)
        for event, name in ((said, "say"), (looked, "again")):
            event.then(steps.answer, state, shown, api_name=f"answer_{name}", **_EVENT).then(
                steps.reward, state, shown, api_name=f"reward_{name}", **_EVENT
            )
        best.click(steps.best, [state, turn], [drafts, status], api_name="best_of", **_EVENT)
        evaluate.click(steps.evaluate, [state, judge], [end, *shown], api_name="evaluate", **_EVENT)
        keep.click(steps.save, state, status, api_name="save", **_EVENT)
    blocks.queue(default_concurrency_limit=_AT_ONCE, api_open=False)
    return blocks


_EVENT: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": _AT_ONCE}  # the status tells what goes on


async def _stay() -> AsyncIterator[None]:
    """An event that is under way for as long as its page is seen."""
    while True:
        yield
        await asyncio.sleep(_AWAKE_S)


class _Steps:
    """What each event does; every one returns, or yields as it goes on, what is shown then."""

    def __init__(self, host: DemoHost) -> None:
        self._host = host

    def people(self, scene: int) -> Any:
        """The people of a scene to choose from."""
        return gr.Radio(_people(self._host.choices.scenes[scene]), value=0)

    def begin(self, scene: int, place: int, policy: str, source: str) -> Iterator[Shown]:
        """A new dialogue, in place of the one before, up to the person's turn."""
        try:
            session = DemoSession(self._host, self._host.choices.scenes[scene], place or 0, policy, source or "")
        except SotopiaDataError as error:
            yield (None, "", "", "", *self._shown(None, error))
            return
        yield (session, view.about(session), "", "", *self._shown(session))
        if not session.is_yours:
            for step in (self.answer, self.reward):
                yield (session, gr.skip(), gr.skip(), gr.skip(), *step(session))

    def say(self, session: DemoSession | None, kind: str, words: str) -> Shown:
        """What the person does; the words stay in the box where they cannot be said."""
        try:
            _begun(session).say(kind, words or "")
        except SotopiaDataError as error:
            if session is not None:
                session.trouble["say"] = error
            return (words, kind, *self._shown(session, error))
        if session is not None:
            session.trouble.pop("say", None)
        return ("", "speak", *self._shown(session))

    def look(self, session: DemoSession | None) -> Shown:
        """What is known; what went wrong is tried again."""
        if session is not None:
            session.trouble.clear()
        return self._shown(session)

    def answer(self, session: DemoSession | None) -> Shown:
        """The policy's answer, where one is due."""
        return self._after(session, "answer", DemoSession.start)

    def reward(self, session: DemoSession | None) -> Shown:
        """The rewards of what has none."""
        return self._after(session, "reward", DemoSession.reward)

    def best(self, session: DemoSession | None, turn: int | None) -> Iterator[Shown]:
        """The drafts of best-of-N at a turn."""
        try:
            begun = _begun(session)
            if turn is None:
                raise UsageError("Nothing was said yet.", "say something first")
            yield gr.skip(), view.status(f"{begun.policy} is thinking …")
            yield view.candidates(begun, turn, begun.best_of(turn, DRAFTS)), self._told(begun)
        except SotopiaDataError as error:
            yield "", self._wrong(error)

    def evaluate(self, session: DemoSession | None, judge: str) -> Iterator[Shown]:
        """The end: the scores, and the dialogue as the report shows it."""
        try:
            begun = _begun(session)
            if judge:
                yield gr.skip(), gr.skip(), view.status(f"{judge} is reading …"), gr.skip()
                begun.evaluate(judge)
            begun.end()
            end = view.scores(begun) + view.as_reported(begun, begun.rules.layout)
            yield (end, *self._shown(begun))
        except SotopiaDataError as error:
            yield ("", *self._shown(session, error))

    def save(self, session: DemoSession | None) -> str:
        """The dialogue, in the next version of the dataset."""
        try:
            with self._host.saving:
                version = save(
                    self._host.store, self._host.choices.out, _begun(session), self._host.choices.rules.layout
                )
        except SotopiaDataError as error:
            return self._wrong(error)
        return view.status(f"Saved: {version.ref}")

    def _after(self, session: DemoSession | None, name: str, step: Callable[[DemoSession], None]) -> Shown:
        """What is shown after a step. It is shown also where nothing was due: what an earlier event has found may have
        come to the page before what a later one has."""
        if session is None:
            return gr.skip(), gr.skip(), gr.skip()
        session.trouble.pop(name, None)
        try:
            step(session)
        except SotopiaDataError as error:
            log.warning("%s", error)
            session.trouble[name] = error
        return self._shown(session)

    def _shown(self, session: DemoSession | None, error: SotopiaDataError | None = None) -> Shown:
        """The dialogue, what is told of it, and its turns to choose from."""
        turns = _turns(session)
        latest = turns[-1][1] if turns else None
        told = self._wrong(error) if error is not None else self._told(session)
        return view.dialogue(session), told, gr.Dropdown(turns, value=latest)

    def _told(self, session: DemoSession | None) -> str:
        """What goes on; or what went wrong, until it is tried again."""
        wrong = [] if session is None else list(session.trouble.values())
        if not wrong:
            return _doing(session)
        again = "" if isinstance(wrong[0], UsageError) else " Press “Ask again” to try once more."
        return view.status(view.sentence(wrong[0]) + again, bad=True)

    def _wrong(self, error: SotopiaDataError) -> str:
        """What went wrong with what the person has just asked for."""
        if not isinstance(error, UsageError):
            log.warning("%s", error)
        return view.status(view.sentence(error), bad=True)


def _begun(session: DemoSession | None) -> DemoSession:
    if session is None:
        raise UsageError("No dialogue has begun.", "choose a scenario, and press Begin")
    return session


def _doing(session: DemoSession | None) -> str:
    if session is None:
        return view.status("")
    if not session.over and not session.is_yours:
        return view.status(f"{session.policy} is thinking …")
    if session.unrewarded():
        return view.status(f"{session.source} is reading …")
    told = "It is your turn." if session.is_yours else "The scene is over: evaluate it, or save it."
    return view.status(told, spoken=view.heard(session))


def _turns(session: DemoSession | None) -> list[tuple[str, int]]:
    if session is None:
        return []
    return [(f"{one.turn}: {session.scene.person(one.agent).name}", one.turn) for one in session.episode.turns]


def _menu(label: str, options: Sequence[tuple[str, Any]]) -> gr.Dropdown:
    return gr.Dropdown(list(options), value=options[0][1], label=label, filterable=False)


def _title(scene: Scene) -> str:
    environment = scene.environment
    names = " and ".join(person.name for person in scene.people)
    return f"{environment.codename or environment.environment_id}: {names}"


def _people(scene: Scene) -> list[tuple[str, int]]:
    return [(person.name, place) for place, person in enumerate(scene.people)]


def _introduction(host: DemoHost) -> str:
    asked = [*host.choices.policies, *host.choices.sources, *host.choices.judges]
    names = ", ".join(dict.fromkeys(asked))
    return (
        f"<h1>{TITLE}</h1><p>Be one of the people of a scene, and see what each utterance is worth. What you write is "
        f"sent to those whom you choose here ({view.text(names)}) and kept by whoever runs this page; "
        f"“Save” adds the dialogue to the dataset {view.text(host.choices.out)}, in which you are “{PERSON}”.</p>"
    )
