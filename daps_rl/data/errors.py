"""What is raised when data cannot be used: always one line that says what is wrong, what is needed and what to do."""

import warnings
from collections.abc import Mapping

MAX_CORRUPT = 100


class DataError(ValueError):
    """The data, or the file that holds them, cannot be used."""


class MissingDataError(DataError, FileNotFoundError):
    """The data are not where they were looked for."""


def one_line(error: BaseException) -> str:
    """Another library's message, cut to one line so that it can be quoted in ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class CorruptFiles:
    """The unreadable files of a data set, found as training comes to them: at most `limit` may be skipped."""

    def __init__(self, where: str, limit: int = MAX_CORRUPT) -> None:
        if limit < 0:
            raise ValueError(f"max_corrupt must be >= 0, got {limit}; 0 refuses the first unreadable file.")
        self.where, self.limit = where, limit
        self.found: dict[str, str] = {}

    def note(self, found: Mapping[str, str], *, exhausted: bool = False) -> None:
        """Warns of each file that is new, name and reason, in the order they were met.

        Raises:
            DataError: more than `limit` are known by now, or no file was left to put in their place (`exhausted`).
        """
        for name, reason in found.items():
            if name not in self.found:
                self.found[name] = reason
                warnings.warn(f"{self.where}: skipped {name}, which cannot be read ({reason})", stacklevel=2)
        if exhausted or len(self.found) > self.limit:
            raise DataError(
                f"{self.where} may hold at most {self.limit} unreadable files (max_corrupt), and readable ones beside "
                f"them, got {len(self.found)}: {', '.join(self.found)}; mend or remove them"
            )
