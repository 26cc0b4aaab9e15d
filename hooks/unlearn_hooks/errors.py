"""The one exception for everything a user can act on."""

from collections.abc import Sequence

__all__ = ["UnlearnError"]


class UnlearnError(Exception):
    """Something the user can mend: what was wrong with which value, what is allowed, what to do next.

    The command line prints the message as it is, without a traceback, and ends with exit code 1. Bugs are
    other exceptions and keep their traceback.
    """

    @classmethod
    def of(cls, findings: Sequence[str]) -> "UnlearnError":
        """Put several findings into one error, so that a user mends them in one go.

        Args:
            findings: One sentence each; at least one.

        Returns:
            An error that is the sentence itself if there is one, else a numbered list of all of them.
        """
        if len(findings) == 1:
            return cls(findings[0])
        lines = [f"  {number}. {finding}" for number, finding in enumerate(findings, start=1)]
        return cls("\n".join([f"{len(findings)} things to mend:", *lines]))
