"""tf.data pipelines: decode, resize and keep images; shuffle, repeat, batch and prefetch them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf
from PIL import Image

from cutpaste_tf.data.split import Split
from cutpaste_tf.errors import UserError

# Decoded sets up to this size are kept in memory, as uint8; larger ones are decoded again at
# every use. MVTec AD's largest category takes 77 MB at 256x256.
MEMORY_LIMIT = 6 * 2**30


# Where decoded images lie: on a GPU bytes cannot be gathered, and a read would copy the whole set.
_on_host = functools.partial(tf.device, "/CPU:0")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images that have been decoded once and found sound, all of one size.

    Attributes:
      count: how many there are, N.
      size: their height and width in pixels.
      stored: uint8 [N, size, size, 3], or None where they do not fit into memory.
      paths: string [N], where `stored` is None.
    """

    count: int
    size: int
    stored: tf.Tensor | None
    paths: tf.Tensor | None

    def read(self, indices: tf.Tensor) -> tf.Tensor:
        """Reads images, in a graph or eagerly.

        Args:
          indices: int64 [B].

        Returns:
          uint8 [B, size, size, 3].
        """
        if self.stored is not None:
            with _on_host():
                return tf.gather(self.stored, indices)
        spec = tf.TensorSpec([self.size, self.size, 3], tf.uint8)
        images = tf.map_fn(
            lambda path: resize(decode(tf.io.read_file(path)), self.size),
            tf.gather(self.paths, indices),
            fn_output_signature=spec,
            parallel_iterations=16,
        )
        return tf.ensure_shape(images, [None, self.size, self.size, 3])

    def subset(self, indices: np.ndarray) -> "Images":
        """Returns some of the images, in the order of their indices, int [M]."""
        kept = [x if x is None else tf.gather(x, indices) for x in (self.stored, self.paths)]
        return Images(len(indices), self.size, *kept)


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a png, jpg or bmp image.

    Args:
      contents: the file's bytes, a string scalar.

    Returns:
      uint8 [H, W, 3]; grey is repeated, an alpha channel dropped, 16 bits reduced to 8.
    """
    # decode_image cannot make three channels of a grey bmp, so it is left to find their number.
    image = tf.io.decode_image(contents, channels=0, expand_animations=False)
    return to_rgb(image)


def to_rgb(image: tf.Tensor) -> tf.Tensor:
    """Makes [H, W, 3] of [H, W], [H, W, 1] (grey), [H, W, 2] (and alpha), [H, W, 3] or [..., 4]."""
    if image.shape.rank == 2:
        image = image[..., None]
    grey = tf.shape(image)[-1] < 3
    image = tf.cond(grey, lambda: tf.repeat(image[..., :1], 3, axis=-1), lambda: image[..., :3])
    return tf.ensure_shape(image, [None, None, 3])


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes with antialiasing; the aspect ratio gives way to the square.

    Args:
      image: uint8 [H, W, 3].
      size: the wanted height and width.

    Returns:
      uint8 [size, size, 3].
    """
    resized = tf.image.resize(tf.cast(image, tf.float32), [size, size], antialias=True)
    resized = tf.clip_by_value(tf.round(resized), 0.0, 255.0)
    return tf.ensure_shape(tf.cast(resized, tf.uint8), [size, size, 3])


def prepare(split: Split, size: int) -> Images:
    """Decodes and resizes every image once, and keeps them where they fit into memory.

    Args:
      split: the images.
      size: the wanted height and width.

    Returns:
      The images, ready to be read.

    Raises:
      UserError: naming the first image that cannot be decoded.
    """
    count = len(split)
    if split.from_files:
        data = tf.data.Dataset.from_tensor_slices(list(split.images))
        data = data.map(lambda path: decode(tf.io.read_file(path)), tf.data.AUTOTUNE)
    else:

        def arrays() -> Iterator[np.ndarray]:
            for image in split.images:
                yield image if image.ndim == 3 else image[..., None]

        spec = tf.TensorSpec([None, None, None], tf.uint8)
        data = tf.data.Dataset.from_generator(arrays, output_signature=spec).map(to_rgb)
    data = data.map(lambda image: resize(image, size), tf.data.AUTOTUNE)
    data = data.prefetch(tf.data.AUTOTUNE)
    # The order is deterministic, so that the number of images read names the one that failed.
    keep = not split.from_files or count * size * size * 3 <= MEMORY_LIMIT
    stored = np.empty([count if keep else 1, size, size, 3], np.uint8)
    done = 0
    try:
        for image in data.as_numpy_iterator():
            stored[done if keep else 0] = image
            done += 1
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"{split.images[done] if split.from_files else split.names[done]}: a damaged or "
            "truncated image; remove it or save it again"
        ) from error
    if keep:
        with _on_host():
            return Images(count, size, tf.constant(stored), None)
    return Images(count, size, None, tf.constant(list(split.images)))


def read_mask(mask: str | np.ndarray | None, size: int) -> np.ndarray:
    """Reads a defect's mask at the size of the model's images.

    Args:
      mask: a file's path, a bool array, or None for a normal image.
      size: the wanted height and width.

    Returns:
      bool [size, size], True on the defect; nearest-neighbour resizing keeps the edges.
    """
    if mask is None:
        return np.zeros([size, size], bool)
    if isinstance(mask, str):
        with Image.open(mask) as file:
            mask = np.asarray(file.convert("L")) > 0
    resized = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def training_batches(
    images: Images,
    batch_size: int,
    seed: int,
    start: int = 0,
    views: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None,
) -> tf.data.Dataset:
    """Makes the endless stream of training batches.

    The order is a function of the seed alone: a stream that starts at step `start` goes on exactly
    as one that started at 0 does from there.

    Args:
      images: what to draw from; every image comes once before one comes again.
      batch_size: images a batch, B.
      seed: of the order.
      start: the step of the first batch.
      views: where given, a function of a step (int64 scalar) and images (uint8 [B, H, W, 3]) that
        makes what the stream yields; it runs on the host, in parallel.

    Returns:
      A data set of what `views` makes, or of pairs of a step, int64 scalar, and images, uint8
      [B, H, W, 3].
    """

    # Numbers are shuffled instead of images. Dataset.shuffle would keep a state from one iterator
    # to the next, and Keras makes as many as it likes.
    def shuffled(epoch):
        numbers = tf.range(images.count, dtype=tf.int64)
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        return tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(numbers, key)
        )

    epochs, rest = divmod(start * batch_size, images.count)
    order = tf.data.Dataset.counter(epochs).flat_map(shuffled).skip(rest)
    order = order.batch(batch_size, drop_remainder=True)  # There is none: shapes become static.
    steps = tf.data.Dataset.zip(tf.data.Dataset.counter(start), order)
    parallel = tf.data.AUTOTUNE
    data = steps.map(lambda step, indices: (step, images.read(indices)), parallel)
    if views is not None:
        data = data.map(views, parallel)
    return data.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(images: Images, batch_size: int) -> Iterable[tf.Tensor]:
    """Makes batches of all images in order, un-augmented: uint8 [B, H, W, 3], the last smaller."""
    if images.stored is not None:
        # There is nothing to wait for, and each new data set would leave traces in memory.
        return (_part(images.stored, n, batch_size) for n in range(0, images.count, batch_size))
    indices = tf.data.Dataset.range(images.count).batch(batch_size)
    return indices.map(images.read, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _part(stored, start, size):
    with _on_host():
        return stored[start : start + size]
