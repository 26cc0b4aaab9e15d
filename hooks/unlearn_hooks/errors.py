"""The one exception for everything a user can act on."""

from collections.abc import Sequence

__all__ = ["UnlearnError"]


class UnlearnError(Exception):
    """Something the user can mend: what was wrong with which value, what is allowed, what to do next.

    The command line prints the message as it is, without a traceback, and ends with exit code 1. Bugs are
    other exceptions and keep their traceback.

    Attributes:
        findings: The single sentences; more than one when several things were found wrong at once.
    """

    def __init__(self, *findings: str) -> None:
        self.findings = findings
        lines = [f"  {number}. {finding}" for number, finding in enumerate(findings, start=1)]
        several = "\n".join([f"{len(findings)} things to mend:", *lines])
        super().__init__(findings[0] if len(findings) == 1 else several)

    @classmethod
    def of(cls, findings: Sequence[str]) -> "UnlearnError":
        """Put several findings into one error, so that a user mends them in one go.

        Args:
            findings: One sentence each; at least one.

        Returns:
            An error that is the sentence itself if there is one, else a numbered list of all of them.
        """
        return cls(*findings)
