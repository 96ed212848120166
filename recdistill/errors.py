"""The one exception that people see: a sentence instead of a traceback."""


class UserError(Exception):
    """Input that cannot be used. The command line prints the message alone and exits with 2.

    The message is one clear sentence: what was wrong, where, what was expected, what to do.
    """
