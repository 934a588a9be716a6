"""Finds the strongest form in which a server takes our requests, by trying.

The first request of a client goes ahead; the others wait until it is answered, or for `_HOLD_S` seconds if it is not
refused. Where it is refused without an explanation (a 4xx that is not about the key, money or rate), it is tried in
weaker forms (`forms.py`), while the others wait. A form is adopted only if it answers what the stronger one refused;
the requests after it put back, one by one, what was not needed. Where no form answers, the question itself may be at
fault: it is given up, and the shortest of those that wait is tried next. At most `MOST_PROBES` calls are made to find
out. What was found is remembered (`memory.py`).

Once a form is known, a refusal without an explanation is the question's own: the identical call is made again,
since some servers refuse at random and some tell a limit in this way, until that has been in vain `_IN_VAIN` times in a
row. A question meets a content filter where its status is about the content of a request, others pass, and it is
refused once more while no other call is on its way: no limit does all of that. Others pass where another question, at
least as long and sent after its refusal, was answered, and no other call failed while it was tried; where no such
question comes, or calls fail, controls are asked (`controls.py`), at most `MOST_CONTROLS` of them. Any other question
is left to the next run.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from sotopia_rl_data.asking.controls import CONTROLS, control_for, current_bill
from sotopia_rl_data.asking.forms import MEANT, BodyOf, RequestForm, hinted, stronger_by_one, weaker_forms, with_change
from sotopia_rl_data.asking.time_limit import restart, standing_still
from sotopia_rl_data.errors import AskingError, Filtered, Rejected, Unavailable
from sotopia_rl_data.request import Reply, Request

MOST_PROBES = 8
MOST_CONTROLS = 24
_HOLD_S = 3.0
_IN_VAIN = 5
_MUCH_SHORTER = 0.5  # a question of at most this share of another's length is much shorter
_EXPLAINED = (401, 402, 407)  # statuses about the key and money
ABOUT_CONTENT = (400, 422, 451)  # a limit may be told under any other status
_LONGEST_WAIT_S = 10.0
_PAUSES_S = (0.1, 0.5, 2.0)  # before each identical call
_PASSES_S = 3.0  # the shortest time in which another question may show that others pass
_SLOWER = 2.0  # … and the longest, in answers as slow as the slowest
_LATER_S = 60.0  # the longest that a question waits until the others have found the form
_FAULTS = 3  # how often a call in a weaker form is sent again after it was refused for rate or load

Post = Callable[[Request, RequestForm], Awaitable[Reply]]


def is_unexplained(error: Rejected) -> bool:
    """Whether a refusal may be about the form of the request."""
    is_about_request = 400 <= error.status < 500 or error.status == 501
    return is_about_request and error.status not in _EXPLAINED and not isinstance(error, Filtered)


class Negotiation:
    """The `form` for the requests of one client that have an answer schema, or for those that have none; nothing more
    is tried once it `is_known`. `post` sends a request in a form, `found` is called with the form that is adopted, and
    `remembered` was adopted by an earlier run."""

    def __init__(
        self,
        body_of: BodyOf,
        ways: Sequence[str],
        post: Post,
        found: Callable[[RequestForm], None],
        remembered: RequestForm | None = None,
    ) -> None:
        self._body_of, self._ways, self._send, self._found = body_of, ways, post, found
        self.form = remembered or MEANT
        self.is_known = self._was_remembered = remembered is not None
        self._proven: set[RequestForm] = set()  # forms in which something was answered
        self._to_put_back: list[tuple[RequestForm, RequestForm]] = []  # one change each, from a form to a stronger one
        self._tried: dict[str, dict[RequestForm, Rejected]] = {}  # refusals by key and limit
        self._probes = 0
        self._in_vain = self._refused_unproven = 0
        self._helped = False  # whether an identical call was ever answered after a refusal
        self._longest_hopeless = 0  # length of the longest question that was refused in every form
        self._slowest_s = 0.0
        self._suspects: list[_Suspect] = []
        self._controls = 0  # how many were sent
        self._control_refused = math.inf  # length of the shortest that was refused
        self._alone = asyncio.Lock()
        self._on_way = 0  # calls
        self._is_held = False  # whether no call is made but the one that is tried alone
        self._judged: Rejected | None = None
        self._turns = _Turns()

    @property
    def settled(self) -> RequestForm | None:
        """The form in which a request can be sent at once; None while that is not known, or a call is tried alone."""
        return self.form if self.is_known and self._judged is None and not self._is_held else None

    async def ask(self, request: Request, was_refused: bool = False) -> Reply:
        """Send a request in the form that the server takes. Raises what `post` raises, and a final Rejected where the
        server refuses a much shorter question in every form too."""
        lost: Rejected | None = None
        if not self.is_known and (was_refused or not await self._may_go_ahead()):
            async with self._turns.taken(request.length):
                if not self.is_known:
                    try:
                        return await self._probe(request)
                    except Rejected as error:
                        lost = error
        if lost is not None:
            if not is_unexplained(lost) or not await self._others_find_it():
                raise lost
            return await self._ask_again(request, self.form, lost, most=1)
        if self._judged is not None:
            raise self._judged
        form = self.form
        try:
            reply = await self._post(request, form)
        except Rejected as error:
            return await self.after_refusal(request, form, error)
        if not self.is_known and form == self.form and not self._to_put_back:
            self._settle()
        return reply

    async def _post(self, request: Request, form: RequestForm) -> Reply:
        """One call, which waits while another one is tried alone."""
        if self._is_held:
            with standing_still():
                while self._is_held:
                    await self._turns.changed(_HOLD_S)
        return await self._post_at_once(request, form)

    async def _post_at_once(self, request: Request, form: RequestForm) -> Reply:
        with self.counted(request, form):
            return await self._send(request, form)

    @contextmanager
    def counted(self, request: Request, form: RequestForm) -> Iterator[None]:
        """One call, which is written down for the questions that were refused."""
        sent, others = time.monotonic(), [suspect for suspect in self._suspects if suspect.request is not request]
        self._on_way += 1
        try:
            yield
        except AskingError:
            for suspect in self._suspects:
                suspect.is_only &= suspect.request is request
            raise
        finally:
            self._on_way -= 1
        self._proven.add(form)
        self._slowest_s = max(self._slowest_s, time.monotonic() - sent)
        for suspect in others:
            suspect.others_pass |= request.length >= suspect.request.length

    async def after_refusal(self, request: Request, form: RequestForm, error: Rejected) -> Reply:
        """Ask once more, as far as that may help, what was refused in this form. Raises the refusal where it has an
        explanation, else as `ask`."""
        if not (is_unexplained(error) or self._may_pass(error, form)):
            raise error
        if self.is_known and form == self.form and not await self._is_outdated(request):
            return await self._ask_again(request, form, error)
        restart()
        return await self.ask(request, was_refused=True)

    def _may_pass(self, error: Rejected, form: RequestForm) -> bool:
        """Whether a refusal of the key may be one for rate: the key was good a moment ago."""
        return error.status == 401 and form in self._proven

    async def _others_find_it(self) -> bool:
        """Wait until other questions have found the form, for one that was refused in every form that was tried;
        whether they have."""
        until = time.monotonic() + _LATER_S
        with standing_still():
            await asyncio.sleep(_PAUSES_S[0])
            while not self.is_known and self._turns.busy and time.monotonic() < until:
                await self._turns.changed(until - time.monotonic())
        return self._judged is None and self.is_known and self.form in self._proven

    async def _may_go_ahead(self) -> bool:
        """Wait while another request is ahead; whether this one may follow it in the form of now."""
        while self._turns.busy and not self._probes and not self.is_known:
            with standing_still():
                if not await self._turns.changed(_HOLD_S):
                    return True
        return self.is_known

    async def _probe(self, request: Request) -> Reply:
        """Ask while the others wait: in the form of now, else in weaker ones."""
        if self._to_put_back:
            return await self._put_back(request)
        tried = self._tried.setdefault(f"{request.key} {request.limit}", {})
        if MEANT not in tried:
            try:
                reply = await self._call(request, MEANT)
            except Rejected as error:
                if not is_unexplained(error):
                    raise
                tried[MEANT] = error
                self._turns.tell()
            else:
                self._settle()
                return reply
        first = tried[MEANT]
        weaker = await self._in_weaker_forms(request, tried)
        if weaker is not None:
            return weaker
        if self.form in self._proven:  # meanwhile another question was answered as it was meant
            self._settle()
        else:
            self._lose(request, first)
        raise self._judged or first

    async def _in_weaker_forms(self, request: Request, tried: dict[RequestForm, Rejected]) -> Reply | None:
        """The reply in the first form that is answered; None where no form is, or where another question was answered
        as it was meant in the meantime. What was refused before a fault of the server is not tried again."""
        body, suggested = self._body_of(request, self._ways[0]), MEANT
        forms = weaker_forms(request, self._body_of, self._ways)
        for form, refusal in tried.items():
            suggested = hinted(form, refusal.param, body) if form == suggested else suggested
        while forms or suggested not in tried:
            if self._probes >= MOST_PROBES - (not self._longest_hopeless) or self.form in self._proven:
                return None  # one call is left for a shorter question
            is_hint = suggested not in tried
            form = suggested if is_hint else forms.pop(0)
            if form in tried:
                continue
            try:
                reply = await self._call(request, form, _FAULTS)
            except Rejected as refusal:
                if not is_unexplained(refusal):
                    raise
                tried[form] = refusal
                suggested = hinted(form, refusal.param, body) if is_hint else suggested
            else:
                self._adopt(form, is_hint)
                return reply
        return None

    def _adopt(self, form: RequestForm, is_hint: bool) -> None:
        """Take a form that answered what the meant one refused; what it weakens without a hint is put back later."""
        self.form = form
        stronger = [] if is_hint else stronger_by_one(form)
        if self._longest_hopeless:  # a question was refused in every form, so perhaps the form was not the reason
            stronger.insert(0, MEANT)
        self._to_put_back = [(form, one) for one in stronger]
        if not self._to_put_back or self._probes >= MOST_PROBES:
            self._settle()

    async def _put_back(self, request: Request) -> Reply:
        """Ask with one thing put back as it is meant; where that is refused, in the form of now."""
        known, stronger = self.form, with_change(self.form, *self._to_put_back[0])
        try:
            reply = await self._call(request, stronger)
            self.form = stronger
        except Rejected as error:
            if not is_unexplained(error):
                raise
            restart()
            try:
                reply = await self._post(request, known)
            except Rejected:  # the question's own fault: nothing is learned from it
                if self._probes >= MOST_PROBES:
                    self._settle()
                raise
        self._to_put_back.pop(0)
        if not self._to_put_back or self.form == MEANT or self._probes >= MOST_PROBES:
            self._settle()
        return reply

    async def _call(self, request: Request, form: RequestForm, faults: int = 0) -> Reply:
        """One probing call, which is sent again where the server is busy, so many times."""
        while True:
            restart()
            try:
                reply = await self._post(request, form)
            except Unavailable as error:
                faults -= 1
                if faults < 0 or error.maybe_billed or error.tokens is not None:
                    raise
                await asyncio.sleep(min(error.retry_after or 1.0, _LONGEST_WAIT_S))
            except Rejected:
                self._probes += 1
                raise
            else:
                self._probes += form != MEANT
                return reply

    def _lose(self, request: Request, error: Rejected) -> None:
        """A question was refused in every form. Where a much longer one was before, it is not the length."""
        length = request.length
        if length <= _MUCH_SHORTER * self._longest_hopeless:
            self._judged = Rejected(
                f"{error.message} (a much shorter question was refused too; {self._probes} calls in weaker forms)",
                error.hint,
                status=error.status,
                final=True,
            )
        self._longest_hopeless = max(self._longest_hopeless, length)
        if self._judged is not None or self._probes >= MOST_PROBES:
            self._settle()

    def _settle(self) -> None:
        """The form is known from now on."""
        self._tried.clear()
        self.is_known, self._to_put_back = True, []
        self._turns.tell()
        if self.form in self._proven:
            self._found(self.form)

    async def _is_outdated(self, request: Request) -> bool:
        """Whether a remembered form is refused by now: twice, and neither a question nor a control was ever answered.
        Then it is looked for again."""
        if self.form in self._proven or self._longest_hopeless:
            return False
        self._refused_unproven += 1
        if self._refused_unproven < 2:
            return False
        form = self.form
        with standing_still():
            await self._alone.acquire()
        try:
            if self.is_known and form == self.form:
                if form in self._proven or await self._control_passes(request, form):
                    return False
                self.is_known, self.form = False, MEANT
        finally:
            self._alone.release()
        return True

    async def _ask_again(
        self, request: Request, form: RequestForm, error: Rejected, most: int = len(_PAUSES_S)
    ) -> Reply:
        """Make the identical call again, as often as that may help: it is in vain for a question that is too long.
        Raises Filtered where it is this question alone that is refused."""
        if not (self._proven or self._was_remembered):
            raise error
        suspect = _Suspect(request, is_only=not self._suspects)
        self._suspects.append(suspect)
        try:
            tries = most if self._helped or not self._in_vain else 1
            for pause in () if self._in_vain >= _IN_VAIN else _PAUSES_S[:tries]:
                with standing_still():
                    await asyncio.sleep(pause)
                try:
                    reply = await self._post(request, form)
                except Rejected as refusal:
                    error = refusal
                else:
                    self._in_vain, self._helped = 0, True
                    return reply
            self._in_vain += 1
            if error.status in ABOUT_CONTENT:
                return await self._ask_alone(suspect, form, error)
            raise error
        finally:
            self._suspects.remove(suspect)

    async def _ask_alone(self, suspect: _Suspect, form: RequestForm, error: Rejected) -> Reply:
        """Make the call once more while no other one is on its way, where others pass. Raises Filtered where it is
        refused as before, `error` where others do not pass, or there is no time soon when no other call is on its
        way."""
        await self._wait_for(lambda: suspect.others_pass or not suspect.is_only)
        if not (suspect.is_told_apart or self._may_ask_control(suspect.request)):
            raise error
        with standing_still():
            await self._alone.acquire()
        self._is_held = True
        try:
            await self._wait_for(lambda: not self._on_way)
            if self._on_way or not (suspect.is_told_apart or await self._controls_pass(suspect, form)):
                raise error
            restart()
            return await self._post_at_once(suspect.request, form)
        except Rejected as refusal:
            if refusal is not error and refusal.status == error.status:
                raise Filtered(refusal.message, refusal.hint, status=refusal.status) from None
            raise
        finally:
            self._is_held = False
            self._alone.release()
            self._turns.tell()

    async def _controls_pass(self, suspect: _Suspect, form: RequestForm) -> bool:
        """Whether harmless texts, as long as the longest question that may meet a filter too, are all answered."""
        asked = [other.request for other in self._suspects if self._may_ask_control(other.request)]
        longest = max(asked, key=lambda request: request.length, default=suspect.request)
        for _ in range(CONTROLS):
            if not await self._control_passes(longest, form):
                return False
        return suspect.is_told_apart

    def _may_ask_control(self, request: Request) -> bool:
        """Whether a control may be sent in the place of a request: none as short was refused, and somebody pays."""
        is_left = self._controls < MOST_CONTROLS and request.length < self._control_refused
        return is_left and current_bill() is not None

    async def _control_passes(self, request: Request, form: RequestForm) -> bool:
        """Send a control in the place of a request, where one is left; whether it is answered."""
        bill = current_bill()
        if bill is None or not self._may_ask_control(request):
            return False
        control = control_for(request, self._controls)
        self._controls += 1
        restart()
        try:
            reply = await bill.pay(control, lambda: self._post_at_once(control, form))
        except AskingError:
            self._control_refused = request.length
            return False
        if reply is None or reply.finish == "refusal":
            return False
        for other in self._suspects:
            other.controls += other.request.length <= request.length
        return True

    async def _wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until it is so, for at most twice the time of the slowest answer."""
        until = time.monotonic() + max(_PASSES_S, _SLOWER * self._slowest_s)
        with standing_still():
            while not is_so() and time.monotonic() < until:
                await asyncio.sleep(_PAUSES_S[0])


@dataclass(slots=True, eq=False)
class _Suspect:
    """A question that was refused without an explanation and is tried again: whether no other call failed in the
    meantime, whether a question at least as long, sent in the meantime, was answered, and how many controls at least as
    long were."""

    request: Request
    is_only: bool
    others_pass: bool = False
    controls: int = 0

    @property
    def is_told_apart(self) -> bool:
        """Whether others pass, so that it is not a limit or the account that refuses this question."""
        return (self.is_only and self.others_pass) or self.controls >= CONTROLS


class _Turns:
    """Who probes: one request at a time, of those that wait the shortest first."""

    def __init__(self) -> None:
        self.busy = False
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._watching: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def taken(self, length: int) -> AsyncIterator[None]:
        """Inside the block it is the turn of a request of this length."""
        if self.busy:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._queue, (length, next(self._numbers), turn))
            try:
                with standing_still():
                    await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                turn.cancel()
                raise
        self.busy = True
        try:
            yield
        finally:
            self._pass_on()

    def tell(self) -> None:
        """Wake those who watch for a change."""
        watching, self._watching = self._watching, []
        for future in watching:
            if not future.done():
                future.set_result(None)

    async def changed(self, seconds: float) -> bool:
        """Wait until something changes; False after so many seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watching.append(future)
        done, _ = await asyncio.wait({future}, timeout=seconds)
        return bool(done)

    def _pass_on(self) -> None:
        self.busy = False
        while self._queue and not self.busy:
            turn = heapq.heappop(self._queue)[2]
            if not turn.done():
                turn.set_result(None)
                self.busy = True
        self.tell()
