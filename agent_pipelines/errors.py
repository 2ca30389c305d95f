"""The one error a person is meant to read.

Belongs here: errors caused by configuration, input or surroundings that a user can put right.
Does not belong here: bugs, and failures of a single document or task (recorded, not raised).
"""


class UserError(Exception):
    """Something the user can put right; shown without a traceback, exit code 2.

    The message names the thing that is wrong and its value; ``remedy`` says what to do about it.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}"


class UnavailableError(UserError):
    """An outside system does not answer, so nothing can be said about what it holds."""
