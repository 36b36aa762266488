"""Errors a user can cause. Each is one line: what, where, what to do. The command line prints them without a traceback.

Anything else that is raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_PREEMPTED = 75  # stopped from outside after a checkpoint was written; run the same command again
EXIT_CONFIG = 78  # the configuration can never work; do not retry


class OviError(Exception):
    """Something the user can mend: a missing folder, a full disk, a busy port. Exit code 1."""

    exit_code = EXIT_FAILED


class ConfigError(OviError):
    """A setting that can never work: unknown key, wrong type, impossible value. Exit code 78."""

    exit_code = EXIT_CONFIG


class Preempted(OviError):
    """Stopped by a signal after the state was saved; the same command continues. Exit code 75."""

    exit_code = EXIT_PREEMPTED


def one_line(error: BaseException) -> str:
    """The message of any exception on one line, with the operating system's words for OSErrors."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
