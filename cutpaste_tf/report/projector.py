"""Embeddings for TensorBoard's projector: points, what each is of, and its picture."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from tensorboard.plugins import projector

MOST = 2000  # images: beyond that a browser's t-SNE crawls
_SPRITE_SIDE = 8192  # pixels; what browsers take
_PICTURE_SIDE = 64  # pixels, at most
_NAME = "embeddings"


def write(
    folder: pathlib.Path,
    features: np.ndarray,
    columns: Mapping[str, Sequence],
    pictures: Sequence[np.ndarray],
) -> None:
    """Writes what the projector shows of a run.

    Args:
      folder: of a run's events; TensorBoard looks there.
      features: [N, D] embeddings, N at most `MOST`.
      columns: what to tell of each, N values by the column's name; two columns at least.
      pictures: N images, uint8 [H, W, 3], all of one size.
    """
    count = len(features)
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / f"{_NAME}.tsv", features, fmt="%.6g", delimiter="\t")
    lines = [list(columns), *zip(*columns.values(), strict=True)]
    text = "\n".join("\t".join(_cell(value) for value in line) for line in lines)
    (folder / f"{_NAME}_images.tsv").write_text(text + "\n", encoding="utf-8")

    # The pictures lie in the rows of a square, whole rows apart from the last.
    across = int(np.ceil(np.sqrt(count)))
    side = min(_PICTURE_SIDE, pictures[0].shape[0], _SPRITE_SIDE // across)
    sprite = Image.new("RGB", (across * side, across * side), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
        sprite.paste(small, (column * side, row * side))
    sprite.save(folder / f"{_NAME}.png")

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = _NAME
    embedding.tensor_path = f"{_NAME}.tsv"
    embedding.metadata_path = f"{_NAME}_images.tsv"
    embedding.sprite.image_path = f"{_NAME}.png"
    embedding.sprite.single_image_dim.extend([side, side])
    projector.visualize_embeddings(str(folder), config)


def _cell(value):
    """A value as text without the characters that part cells."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())
