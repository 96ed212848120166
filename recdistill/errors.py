"""The one exception that people see, a sentence instead of a traceback, and such sentences for the system's errors."""

import errno

GO_ON = "then run the same command again: what is done is kept"
_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ("the disk is full", "free some space")),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        ("permission denied", "let this user read and write there, or name another place"),
    ),
    **dict.fromkeys(
        (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        ("a file or a folder cannot be made or read", "name another place"),
    ),
    errno.EFBIG: ("a file would be larger than the system allows", "raise the limit (ulimit -f)"),
    errno.EIO: ("the disk cannot be read or written", "see to the disk"),
}


LONGEST = 2000
"""Characters of a line: the beginning and the end of what is longer."""


class UserError(Exception):
    """Input that cannot be used. The command line prints the message alone and exits with 2.

    The message is one clear sentence: what was wrong, where, what was expected, what to do; the mistakes of a job file
    have a line each below it. What it quotes may be anything, so what no line can show is escaped.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(_shown, lines))

    def __str__(self) -> str:
        return "\n  ".join(self.args)


def _shown(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def sentence_of(error: OSError) -> str | None:
    """What an error of the operating system's means and what to do; None where only a programmer can tell."""
    if error.errno not in _CURES:
        return None
    what, cure = _CURES[error.errno]
    where = f" at {error.filename}" if error.filename else ""
    return f"{what}{where}; {cure}, {GO_ON}"
