"""The message of a user error on the command line."""

from charladder.errors import UserError

_OPTIONS_OF_FIELDS = {"batch_size": "--together"}  # where the option has another name than the field


def format_error(error: UserError) -> str:
    """The error as one sentence that names the option of its field. A recipe field keeps its dotted name."""
    if error.field is None or "." in error.field:
        return str(error)
    option = _OPTIONS_OF_FIELDS.get(error.field, f"--{error.field.replace('_', '-')}")
    return error.sentence(option) if error.problem is None else f"{error} ({option})"
