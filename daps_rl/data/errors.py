"""What is raised when data cannot be used: always one line that says what is wrong, what is needed and what to do."""


class DataError(ValueError):
    """The data, or the file that holds them, cannot be used."""


class MissingDataError(DataError, FileNotFoundError):
    """The data are not where they were looked for."""


def one_line(error: BaseException) -> str:
    """Another library's message, cut to one line so that it can be quoted in ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__
