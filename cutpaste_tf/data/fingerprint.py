"""What tells images from others: their number, and a SHA-256 of their names and contents."""

import hashlib

import numpy as np

from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.files import UserError


def of_category(category: Category) -> dict[str, dict[str, int | str]]:
    """Reads all images of a category, as files or as arrays, without decoding them.

    Args:
      category: the images.

    Returns:
      By "train" and "test": `images`, how many there are, and `sha256`, in hexadecimal, of their
      names, their contents and their masks', in their order.

    Raises:
      UserError: if a file cannot be read.
    """
    return {"train": of_split(category.train), "test": of_split(category.test)}


def of_split(split: Split) -> dict[str, int | str]:
    """Returns likewise what tells the images of a split from others."""
    total = hashlib.sha256()
    for name, image, mask in zip(split.names, split.images, split.masks, strict=True):
        # A sum of sums of one length: no two lists of parts run together to the same bytes.
        total.update(hashlib.sha256(name.encode(errors="surrogateescape")).digest())
        total.update(digest(image))
        total.update(bytes(32) if mask is None else digest(mask))
    return {"images": len(split), "sha256": total.hexdigest()}


def digest(content: str | np.ndarray) -> bytes:
    """Returns the SHA-256 of an image, a path or an array; a UserError if it is unreadable."""
    if isinstance(content, np.ndarray):
        shape = hashlib.sha256(f"{content.dtype.str} {content.shape}".encode())
        shape.update(np.ascontiguousarray(content))
        return shape.digest()
    try:
        with open(content, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{content}: cannot be read ({error.strerror})") from error
