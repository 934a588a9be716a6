"""When a provider has failed often enough that asking on is pointless: a wrong key, an unknown model, a dead server."""

from __future__ import annotations

from sotopia_rl_data.errors import AskingError, KeyMissing, Rejected

_ACCOUNT = (401, 402, 403, 404, 429)  # refusals that are about the key, the money or the URL, not about one request
_REFUSED_ACCOUNT = 5  # requests in a row
_REFUSED_FIRST = 25  # requests, where nothing was ever answered
_LOST = 8  # requests in a row that met nothing but faults


class CircuitBreaker:
    """Counts failures in a row. `hopeless` is the error that the run ends with although it could go on; `fruitless`
    the one that it ends with when all was asked and nothing came."""

    def __init__(self) -> None:
        self._refused = self._lost = 0
        self._answered = False
        self.hopeless: AskingError | None = None
        self.fruitless: AskingError | None = None

    def answered(self) -> None:
        """An answer came: all is well."""
        self._refused = self._lost = 0
        self._answered = True
        self.fruitless = None

    def refused(self, error: AskingError, anything_known: bool) -> None:
        """A request was refused for good. `anything_known`: whether the ledger or the provider answered any other."""
        self._refused += 1
        account = isinstance(error, Rejected) and error.status in _ACCOUNT
        if account and not self._answered:
            self.fruitless = error
        if (
            isinstance(error, KeyMissing)
            or (account and self._refused >= _REFUSED_ACCOUNT)
            or (self._refused >= _REFUSED_FIRST and not anything_known)
        ):
            self.hopeless = error

    def lost(self, error: AskingError) -> None:
        """A request used up its tries."""
        self._lost += 1
        if not self._answered:
            self.fruitless = error
        if self._lost >= _LOST:
            self.hopeless = error
