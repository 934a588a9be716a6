"""The form of the requests in batches, found by a small batch whose lines have different forms.

Where lines are refused without an explanation and none of their form is answered, the next batch is a probe: the
shortest questions that are left, each in another form, at most `MOST_PROBES` of them, while the rest wait. The
strongest form that is answered is adopted. Where none is, the provider's refusal ends the run.
"""

from __future__ import annotations

from dataclasses import replace

from sotopia_rl_data.asking.forms import MEANT, RequestForm, hinted, weaker_forms
from sotopia_rl_data.asking.memory import FORMS_KEPT_S, EndpointMemory
from sotopia_rl_data.asking.negotiation import MOST_PROBES
from sotopia_rl_data.asking.transport import Api
from sotopia_rl_data.errors import Rejected
from sotopia_rl_data.request import Request, Target

_NAME = "form for schema"  # the entry of the memory, the same as of live requests with an answer schema


class BatchForms:
    """The `form` of the requests in a target's batches. `judged` is the refusal that ends the run."""

    def __init__(self, api: Api, target: Target) -> None:
        self._api, self._target = api, target
        self._memory: EndpointMemory | None = None
        self.form = MEANT
        self.is_looking = False
        self.judged: Rejected | None = None
        self._answered: set[RequestForm] = set()
        self._refused: dict[RequestForm, Rejected] = {}
        self._with_limit: Rejected | None = None  # a refusal that may be one of the answer's limit

    def use_memory(self, memory: EndpointMemory) -> None:
        """Remember the form there, and begin with the one that an earlier run has found."""
        self._memory = memory
        remembered = memory.recall(self._target, _NAME, FORMS_KEPT_S)
        self.form = RequestForm.of(remembered, self._api.ways) or MEANT

    def words(self, form: RequestForm) -> str:
        """What of the form is weaker than meant; empty where nothing is."""
        return form.words(self._api.ways)

    def to_try(self, request: Request, most: int) -> list[RequestForm]:
        """The forms of the next probing lines, no more than `most`, the strongest first."""
        api, error = self._api, next(iter(self._refused.values()), self._with_limit)
        body = api.body_of(request, api.ways[0])
        together = weaker_forms(request, api.body_of, api.ways)
        single = [hinted(MEANT, name, body) for name in ("temperature", "max_tokens", "messages")]
        ways = [RequestForm(way=way) for way in range(1, len(api.ways) if request.answer_schema is not None else 1)]
        suggested = [hinted(MEANT, error.param, body)] if error is not None else []
        last = [replace(together[-1], limit=single[1].limit)] if together else []
        every = dict.fromkeys([MEANT, *suggested, *single, *ways, *together, *last])
        untried = [form for form in every if form not in self._refused]
        return untried if len(untried) <= most else [*untried[: most - 1], *untried[-1:]]

    def answered(self, form: RequestForm) -> None:
        """A line in this form was answered."""
        self._answered.add(form)

    def is_own_fault(self, form: RequestForm, error: Rejected) -> bool:
        """Whether a refused line is at fault itself, since others in its form were answered; else the form is
        noted."""
        if form in self._answered:
            return True
        self._refused[form] = error
        return False

    def refused_with_limit(self, error: Rejected) -> None:
        """A line was refused, perhaps because of the limit of its answer: its form is tried without one."""
        self._with_limit = error

    def is_answered(self, form: RequestForm) -> bool:
        """Whether a line in this form was answered."""
        return form in self._answered

    def decide(self) -> None:
        """All results of a batch are there: adopt the strongest form that was answered, else look for one."""
        if self._answered:
            best = min(self._answered, key=_weakness)
            if best != self.form or self.is_looking:
                self.form = best
                self._keep()
            self.is_looking = False
        elif len(self._refused) < MOST_PROBES and (self._refused or self._with_limit):
            self.is_looking = True
        elif self._refused:
            self.judge()

    def judge(self) -> Rejected:
        """Nothing is left to try: the refusal that ends the run."""
        error = next(iter(self._refused.values()))
        self.judged = Rejected(
            f"{error.message} (refused in {len(self._refused)} forms)", error.hint, status=error.status, final=True
        )
        return self.judged

    def _keep(self) -> None:
        if self._memory is not None:
            self._memory.keep(self._target, _NAME, self.form.as_dict())


def _weakness(form: RequestForm) -> tuple[int, int]:
    return form.way, form.no_temperature + form.folded + bool(form.limit)
