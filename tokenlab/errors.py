"""Errors a user can mend: shown as one line, without a traceback."""


class UserError(Exception):
    """What was asked for cannot be done; the message names the key, the value and the way out."""


class SampleError(Exception):
    """One sample cannot be answered; it is recorded as failed and the run goes on."""
