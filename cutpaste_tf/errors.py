"""The one exception for mistakes that a user can mend, and a parser that raises it."""

import argparse


class UserError(Exception):
    """A mistake of the user's: a flag's value, a missing folder, a broken image.

    Its message is one line that names the thing and the mend; `main` prints it on stderr without
    a traceback and exits with status 2.
    """


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are `UserError`s, and which takes no abbreviations."""

    def __init__(self, *args, **options):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(*args, allow_abbrev=False, formatter_class=formatter, **options)

    def error(self, message: str) -> None:
        """Raises UserError instead of exiting."""
        raise UserError(message)
