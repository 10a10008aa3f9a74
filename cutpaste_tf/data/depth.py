"""How many of 16 bits the camera of a data set fills."""

from cutpaste_tf.config import Config
from cutpaste_tf.data import decode, stream
from cutpaste_tf.data.split import Split


def find(config: Config, train: Split) -> int:
    """Finds the bits that --bit_depth asks for.

    Args:
      config: the settings.
      train: the training images.

    Returns:
      The number; with auto the least of `decode.BITS` from 8 that holds all levels of the training
      images with 16 bits, and 16 where there are none.

    Raises:
      UserError: if a file cannot be read.
    """
    if config.bit_depth != "auto":
        return int(config.bit_depth)
    files = train.images if train.from_files else ()
    return max(stream.in_order(decode.filled_bits, files), default=0) or 16
