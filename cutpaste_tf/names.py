"""Names of files as text: on Linux a name is bytes, and need not be UTF-8."""

import os


def as_text(name: str | os.PathLike) -> str:
    r"""Returns a name as text that can be printed and written as UTF-8.

    Args:
      name: a name or path. Bytes that are not UTF-8 are lone surrogates in it, as Python has them.

    Returns:
      The name; such a byte, XX in hexadecimal, is the six characters `\udcXX`. Python prints it so
      on stderr too.
    """
    return os.fspath(name).encode("utf-8", "backslashreplace").decode("utf-8")
