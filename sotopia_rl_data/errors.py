"""Every error a person can meet: one sentence that says what is wrong, then the command or edit that helps.

    SotopiaDataError
    ├── UsageError        the command or call was wrong                        exit 2
    ├── NotFound          a dataset, version, episode or column is not there   exit 2
    ├── InputError        a file that was handed in cannot be used             exit 1
    ├── StoreError        the store cannot be read or written                  exit 1
    │   └── VersionExists the version is taken by other content                exit 1
    ├── QueryError        SQL that is not one SELECT over the version          exit 2
    ├── AskingError       a model could not be asked                           exit 1
    │   ├── KeyMissing    no API key                                           exit 2
    │   ├── Rejected      the provider refuses this request for good           exit 1
    │   ├── Unavailable   try again: rate limit, 5xx, timeout, lost connection exit 1
    │   ├── UnusableAnswers  one answer after the other that cannot be used     exit 1
    │   ├── BudgetSpent   nothing more fits under --budget                     exit 1
    │   ├── Interrupted   Ctrl-C while asking or training                      exit 130
    │   └── UnderWay      batches that are not waited for                      exit 1
    ├── HubError          the Hub refuses, or holds something else             exit 1
    │   └── HubUnavailable try again: rate limit, 5xx, no connection           exit 1
    ├── SecretsFound      a push would publish keys, tokens or passwords       exit 1
    └── BadAnswer         a judge's answer that breaks its schema (becomes a `failures` row, never a zero)

`cli/program.py` prints `error: <sentence>` and `  hint: <hint>` and exits with `exit_code`; a traceback is a bug.
"""

from __future__ import annotations


class SotopiaDataError(Exception):
    """Base of the tree. `message` is one sentence; `hint` is what a person does next."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(SotopiaDataError):
    """The command line or the call is wrong: an unknown judge, dimension, schema, preset, option value."""

    exit_code = 2


class NotFound(SotopiaDataError):
    """A dataset, version, config, episode or column that was named does not exist."""

    exit_code = 2


class InputError(SotopiaDataError):
    """A file that was handed in is missing, unreadable, or not what its name promises."""


class StoreError(SotopiaDataError):
    """The store cannot be read or written: read-only, full, or damaged."""


class VersionExists(StoreError):
    """The version that was asked for is taken by other content."""


class QueryError(SotopiaDataError):
    """SQL that is not exactly one SELECT over the version's own tables, or that DuckDB refuses."""

    exit_code = 2


class AskingError(SotopiaDataError):
    """A model could not be asked."""


class KeyMissing(AskingError):
    """No API key in the environment for the provider that was named."""

    exit_code = 2


class Rejected(AskingError):
    """The provider refuses this request for good (400, 401, 403, 404): asking again cannot help.

    `status` is the HTTP status (0: unknown); `param` the parameter that the provider names as the cause; `final` says
    that it refuses everything.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = 0, param: str = "", final: bool = False) -> None:
        super().__init__(message, hint)
        self.status = status
        self.param = param
        self.final = final


class Filtered(Rejected):
    """The provider's content filter refuses this request, which counts as a refusal of the model's own."""


class Unavailable(AskingError):
    """The provider could not answer now (429, 5xx, timeout, lost connection): asking again may help.

    `status` is the HTTP status (0: none arrived); `retry_after` is what the provider asked for, in seconds;
    `sent` is False where the request never left; `tokens` are those that it reports for the fault: input, cached,
    written and output.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int = 0,
        retry_after: float | None = None,
        sent: bool = True,
        tokens: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.retry_after = retry_after
        self.sent = sent
        self.tokens = tokens

    @property
    def maybe_billed(self) -> bool:
        """Whether the provider may have done the work and charge for it: a timeout, a lost connection, a 5xx."""
        return self.sent and self.status not in (409, 429, 503, 529)


class UnusableAnswers(AskingError):
    """Many answers in a row, none of which can be used: asking on would pay for more of them. What came is kept."""


class BudgetSpent(AskingError):
    """Nothing more fits under the cap on what a run may cost. What was answered is kept."""


class Interrupted(AskingError):
    """Ctrl-C while a model was being asked or trained. What was answered is kept, and so are checkpoints: the hint says
    how the next run goes on from there."""

    exit_code = 130


class UnderWay(AskingError):
    """There is no result yet: `requests` are under way in `batches` that are not waited for. Where that was wanted
    (`label --batch --no-wait`) that is not a failure, and the command exits with 0."""

    def __init__(self, message: str, hint: str = "", *, requests: int = 0, batches: int = 0) -> None:
        super().__init__(message, hint)
        self.requests, self.batches = requests, batches


class HubError(SotopiaDataError):
    """The Hugging Face Hub refuses, or holds something else than it should."""


class HubUnavailable(HubError):
    """The Hub could not answer now (409, 412, 429, 5xx, timeout, no connection): trying again may help.

    `status` is the HTTP status (0: none arrived); `retry_after` is what the Hub asked for, in seconds.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.status = status
        self.retry_after = retry_after


class SecretsFound(SotopiaDataError):
    """What a push would publish holds keys, tokens or passwords, by their shape."""


class BadAnswer(SotopiaDataError):
    """A judge's answer that breaks its answer schema. `message` is the reason kept in the `failures` row."""


def is_ctrl_c(error: BaseException) -> bool:
    """Whether an error is Ctrl-C: KeyboardInterrupt, or the RuntimeError that DuckDB makes of it."""
    in_duckdb = type(error) is RuntimeError and str(error) == "Query interrupted"
    return in_duckdb or isinstance(error, KeyboardInterrupt)
