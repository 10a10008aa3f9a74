"""tf.data pipelines: decode, resize and keep images; shuffle, repeat, batch and prefetch them."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from cutpaste_tf.data import decode
from cutpaste_tf.data.preparation import Preparation, as_preparation
from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.data.stream import in_order
from cutpaste_tf.files import warn

# Bytes of a decoded set, as uint8, that is kept in memory; a larger set is decoded again at every
# use. MVTec AD's largest category takes 77 MB at 256x256.
MEMORY_LIMIT = 6 * 2**30


# Decoded images stay on the host: a GPU cannot gather bytes, and a read would copy the whole set.
_on_host = functools.partial(tf.device, "/CPU:0")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images that have been decoded once and found sound, prepared for a network.

    Attributes:
      count: the number of images, N; a network's inputs are N * K, K tiles of each.
      preparation: how they become inputs.
      stored: uint8 [N, K, h, w, 3], or None if they do not fit into memory.
      paths: the N images' files, if `stored` is None.
      sizes: int [N, 2], the images' own heights and widths; None: the canvas's.
      contents: the SHA-256 of each image's inputs; only `prepare` gives it.
    """

    count: int
    preparation: Preparation
    stored: tf.Tensor | None
    paths: Sequence[str] | None = None
    sizes: np.ndarray | None = None
    contents: Sequence[bytes] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an input in pixels."""
        return self.preparation.size

    @property
    def inputs(self) -> int:
        """The number of inputs, N * K."""
        return self.count * self.preparation.count

    def read(self, numbers: tf.Tensor) -> tf.Tensor:
        """Reads inputs, uint8 [B, h, w, 3], by their numbers, int64 [B], in a graph or eagerly.

        Image n has the inputs n * K to n * K + K - 1.
        """
        if self.stored is not None:
            with _on_host():
                return tf.gather(tf.reshape(self.stored, [-1, *self.size, 3]), numbers)
        tiles = self.preparation.count

        def read_files(numbers):
            indices = np.unique(numbers // tiles)
            paths = [self.paths[index] for index in indices]
            by_index = dict(zip(indices, in_order(self.preparation.read, paths), strict=True))
            return np.stack([by_index[number // tiles][number % tiles] for number in numbers])

        inputs = tf.numpy_function(read_files, [numbers], tf.uint8)
        return tf.ensure_shape(inputs, [None, *self.size, 3])

    def canvases(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Returns some images whole, uint8 [n, H, W, 3], their tiles joined."""
        tiles = self.split_tiles(self.read(tf.constant(self.numbers(indices))).numpy())
        return np.round(self.preparation.join(tiles)).astype(np.uint8)

    def without_border(
        self, canvases: np.ndarray, indices: np.ndarray | Sequence[int]
    ) -> list[np.ndarray]:
        """Cuts the border of --resize=pad off some images' canvases, [n, H, W, ...]."""
        return [
            self.preparation.image_part(canvas, *self.own_size(index))
            for canvas, index in zip(canvases, indices, strict=True)
        ]

    def own_size(self, index: int) -> tuple[int, int]:
        """Returns an image's own height and width in pixels."""
        size = self.preparation.canvas if self.sizes is None else self.sizes[index]
        return int(size[0]), int(size[1])

    def region(self, index: int) -> np.ndarray | None:
        """Returns which pixels of an image's canvas are in the region, bool [H, W]; None: all."""
        return self.preparation.region(*self.own_size(index))

    def numbers(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Returns the numbers of some images' inputs, int64 [n * K], as `read` takes them."""
        tiles = self.preparation.count
        return (np.asarray(indices, np.int64).reshape(-1, 1) * tiles + np.arange(tiles)).ravel()

    def split_tiles(self, values: np.ndarray) -> np.ndarray:
        """Groups values of inputs, [n * K, ...], by image, [n, K, ...]."""
        tiles = self.preparation.count
        return values.reshape(len(values) // tiles, tiles, *values.shape[1:])

    @functools.cached_property
    def regions(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The region of interest, without the border of --resize=pad; None: all of all images.

        Two arrays: bool [R, K, h, w], the different regions, cut into tiles as images are; and
        int64 [N], which of them each image has.
        """
        if not self.preparation.masked:
            return None
        sizes = [self.own_size(index) for index in range(self.count)]
        boxes = [self.preparation.box(*size) for size in sizes]
        # Thousands of sizes share a few boxes.
        different = dict(zip(boxes, sizes, strict=True))
        regions = np.zeros([len(different), self.preparation.count, *self.size], bool)
        for number, size in enumerate(different.values()):
            regions[number] = self.preparation.cut(self.preparation.region(*size)[None])[0]
        numbers = {box: number for number, box in enumerate(different)}
        return regions, np.array([numbers[box] for box in boxes], np.int64)

    @functools.cached_property
    def in_region(self) -> np.ndarray:
        """Which inputs show a part of the region, bool [N, K]."""
        if self.regions is None:
            return np.ones([self.count, self.preparation.count], bool)
        regions, which = self.regions
        return regions.any(axis=(2, 3))[which]

    def places(self, cells: Sequence[np.ndarray]) -> np.ndarray | None:
        """Returns which places of feature maps are in the region, bool [N, K, h, w]; None: all.

        `cells`, float32 [h, H] and [w, W], say which pixels a place is the nearest to.
        """
        if self.regions is None:
            return None
        regions, which = self.regions
        rows, columns = cells
        return (rows @ regions.astype(np.float32) @ columns.T > 0.5)[which]

    def regions_of(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns which pixels of inputs, by their numbers, are in the region, bool [B, h, w]."""
        regions, which = self.regions
        tiles = self.preparation.count
        with _on_host():
            region = tf.gather(tf.constant(which), numbers // tiles)
            at = tf.stack([region, numbers % tiles], axis=1)
            return tf.gather_nd(tf.constant(regions), at)

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Images":
        """Returns some of the images, in the order of their indices, int [M]."""
        indices = np.asarray(indices, np.int64)
        return Images(
            len(indices),
            self.preparation,
            None if self.stored is None else tf.gather(self.stored, indices),
            None if self.paths is None else [self.paths[index] for index in indices],
            None if self.sizes is None else self.sizes[indices],
            None if self.contents is None else [self.contents[index] for index in indices],
        )


def of_arrays(images: Sequence[np.ndarray], preparation: Preparation | int) -> Images:
    """Prepares images in memory, uint8 [H, W, 3], as `prepare` does."""
    preparation = as_preparation(preparation)
    return of_prepared(
        [preparation.apply(image) for image in images],
        preparation,
        [image.shape[:2] for image in images],
    )


def of_prepared(
    tiles: Sequence[np.ndarray], preparation: Preparation, sizes: Sequence[tuple[int, int]]
) -> Images:
    """Makes `Images` of N prepared ones, uint8 [K, h, w, 3] each, and their own sizes."""
    stored = np.array(tiles, np.uint8).reshape(-1, preparation.count, *preparation.size, 3)
    with _on_host():
        stored = tf.constant(stored)
    return Images(len(tiles), preparation, stored, None, np.array(sizes).reshape(-1, 2))


def prepare(split: Split, preparation: Preparation | int) -> Images:
    """Decodes and prepares every image once, and keeps them if they fit into memory.

    A number for the preparation is the side of the square that images are squashed to. A UserError
    names the first image that cannot be decoded.
    """
    preparation = as_preparation(preparation)
    count, tiles = len(split), preparation.count
    bytes_each = tiles * int(np.prod(preparation.size)) * 3
    keep = not split.from_files or count * bytes_each <= MEMORY_LIMIT
    stored = np.empty([count if keep else 0, tiles, *preparation.size, 3], np.uint8)
    sizes, contents = np.zeros([count, 2], np.int64), []

    def one(image):
        array = decode.read(image, preparation.bits) if split.from_files else to_rgb(image)
        prepared = np.ascontiguousarray(preparation.apply(array))
        return prepared, array.shape[:2], hashlib.sha256(prepared).digest()

    for number, (prepared, size, content) in enumerate(in_order(one, split.images)):
        sizes[number] = size
        contents.append(content)
        if keep:
            stored[number] = prepared
    if keep:
        with _on_host():
            return Images(count, preparation, tf.constant(stored), None, sizes, contents)
    return Images(count, preparation, None, split.images, sizes, contents)


def copies_among(images: Images, others: Images) -> dict[int, int]:
    """Maps each image that is among `others` too to its first copy there, by their indices."""
    first = {}
    for index, content in enumerate(others.contents):
        first.setdefault(content, index)
    return {i: first[content] for i, content in enumerate(images.contents) if content in first}


def without_copies(
    category: Category, train_images: Images, test_images: Images
) -> tuple[Category, Images]:
    """Leaves out training images that are copies of earlier ones; warns of copies on stderr.

    In a cross-validation, a copy would be scored by a density that was fitted to the same image.
    And the threshold would count each copy as one more image. No test image is left out.
    """
    train, tested = category.train, copies_among(test_images, train_images)
    first = copies_among(train_images, train_images)
    copies = [index for index, other in first.items() if index != other]
    if copies:
        warn(
            f"warning: {len(copies)} of {len(train)} training images are copies, such as "
            f"{train.names[copies[0]]} of {train.names[first[copies[0]]]}; each image counts once"
        )
        different = np.setdiff1d(np.arange(len(train)), copies)
        category = dataclasses.replace(category, train=train.subset(different))
        train_images = train_images.subset(different)
    if tested:
        index, other = next(iter(tested.items()))
        warn(
            f"warning: {len(tested)} of {len(category.test)} test images are training images too, "
            f"such as {category.test.names[index]}, which is {train.names[other]}; they do not "
            "show how new images are judged"
        )
    return category, train_images


def filled_bits(split: Split) -> int:
    """Returns how many of 16 bits the camera fills, one of `decode.BITS`; 16 for 8-bit images."""
    files = split.images if split.from_files else ()
    return max(in_order(decode.filled_bits, files), default=0) or 16


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Makes an image [H, W, 3]; it may be grey, [H, W] or [H, W, 1], and have an alpha channel."""
    if image.ndim == 2:
        image = image[..., None]
    return np.repeat(image[..., :1], 3, axis=-1) if image.shape[-1] < 3 else image[..., :3]


def training_batches(
    images: Images,
    batch_size: int,
    seed: int,
    start: int = 0,
    views: Callable[..., tuple[tf.Tensor, ...]] | None = None,
) -> tf.data.Dataset:
    """Makes the endless stream of training batches.

    The order depends on the seed alone: a stream that starts at step `start` has the same batches
    as one that started at 0 has from there on.

    Args:
      images: what to draw from; every input that shows a part of the region comes once before any
        comes again.
      batch_size: inputs in a batch, B.
      seed: the seed of the order.
      start: the step of the first batch.
      views: a function that makes what the stream yields, in parallel on the host. It takes a step
        (int64 scalar), images (uint8 [B, h, w, 3]) and, if the images have regions, which pixels
        are in them (bool [B, h, w]). None: the stream yields these three.
    """
    usable = np.flatnonzero(images.in_region)
    whole = images.regions is None

    # Numbers are shuffled, not images. Dataset.shuffle would keep a state from one iterator to the
    # next, and Keras makes several.
    def shuffled(epoch):
        numbers = tf.range(len(usable), dtype=tf.int64) if whole else tf.constant(usable, tf.int64)
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        return tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(numbers, key)
        )

    def read(step, numbers):
        if whole:
            return step, images.read(numbers)
        return step, images.read(numbers), images.regions_of(numbers)

    epochs, rest = divmod(start * batch_size, len(usable))
    order = tf.data.Dataset.counter(epochs).flat_map(shuffled).skip(rest)
    # An endless stream has no remainder; to drop it makes shapes static.
    order = order.batch(batch_size, drop_remainder=True)
    steps = tf.data.Dataset.zip(tf.data.Dataset.counter(start), order)
    data = steps.map(read, tf.data.AUTOTUNE)
    if views is not None:
        data = data.map(views, tf.data.AUTOTUNE)
    return data.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(images: Images, batch_size: int) -> Iterator[tf.Tensor]:
    """Yields all images in order, un-augmented: uint8 [B, K, h, w, 3], the last batch smaller.

    Without images, it yields one empty batch.
    """
    for first in range(0, max(images.count, 1), batch_size):
        indices = np.arange(first, min(first + batch_size, images.count))
        inputs = images.read(tf.constant(images.numbers(indices)))
        yield tf.reshape(inputs, [-1, images.preparation.count, *images.size, 3])
