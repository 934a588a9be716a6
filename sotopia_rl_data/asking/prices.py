"""Temporary: prices follow."""

from __future__ import annotations

from sotopia_rl_data.asking.request import Request


def rough_tokens(request: Request) -> int:
    """About how many tokens a request will cost, input and output: four characters a token, and the output limit."""
    asked = sum(len(m["content"]) for m in request.messages) // 4
    limit = request.target.sampling.get("max_tokens") or request.target.sampling.get("max_completion_tokens") or 0
    return asked + int(limit)
