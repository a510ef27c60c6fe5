"""The one error a user may see: a sentence that says what is wrong with which input, and how to mend it."""


class InputError(ValueError):
    """Something the user gave (a scenario, a profile, an option) is wrong.

    The command line prints the message as one paragraph and exits with status 2; nothing has been written.
    """


class UnknownKeyError(InputError):
    """A key that there is not, whatever the values of all others."""
