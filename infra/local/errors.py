"""The one error the local run shows to a person: a sentence that says what to do, never a traceback."""


class LocalRunError(Exception):
    """Something a person can mend. `details` are log lines worth showing below the message."""

    def __init__(self, message: str, *, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details
