"""A judge behind an API: a model of `sotopia_rl_data.asking` that knows what a Question is."""

from __future__ import annotations

from sotopia_rl_data.asking.providers import ApiModel
from sotopia_rl_data.labelers.judge import Question
from sotopia_rl_data.labelers.judges.sending import request_of
from sotopia_rl_data.request import Reply


class ApiJudge(ApiModel):
    """Asks one model at one URL."""

    async def answer(self, question: Question) -> Reply:
        """One call, for whoever has no ledger."""
        return await self.send(request_of(question, self.target))
