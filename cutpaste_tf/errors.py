"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """A mistake of the user's: a flag's value, a missing folder, a broken image.

    Its message is one line that names the thing and the mend; a command prints it on stderr without
    a traceback and exits with status 2.
    """
