"""The one exception that a user is meant to read."""


class MvfaError(Exception):
    """Something the user can mend: a single line that names the file or the setting, and the remedy."""
