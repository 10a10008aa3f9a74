"""Writes embeddings for TensorBoard's projector: points, with values and an image for each."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from tensorboard.plugins import projector

MOST = 2000  # images; with more, a browser's t-SNE is slow
_SPRITE_SIDE = 8192  # pixels; the most that browsers accept
_IMAGE_SIDE = 64  # pixels, at most


def write(
    folder: pathlib.Path,
    embeddings: np.ndarray,
    columns: Mapping[str, Sequence],
    images: Sequence[np.ndarray],
) -> None:
    """Writes embeddings, [N, D], into a folder of events, where TensorBoard's projector finds them.

    `columns` are two or more columns of N values, by name; `images` are N images, uint8 [H, W, 3],
    of one size. N is at most `MOST`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "embeddings.tsv", embeddings, fmt="%.6g", delimiter="\t")
    lines = [list(columns), *zip(*columns.values(), strict=True)]
    text = "\n".join("\t".join(_cell(value) for value in line) for line in lines)
    (folder / "embeddings_images.tsv").write_text(text + "\n", encoding="utf-8")

    # The images fill a square row by row.
    across = int(np.ceil(np.sqrt(len(images))))
    side = min(_IMAGE_SIDE, images[0].shape[0], _SPRITE_SIDE // across)
    sprite = Image.new("RGB", (across * side, across * side), "white")
    for number, image in enumerate(images):
        row, column = divmod(number, across)
        small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
        sprite.paste(small, (column * side, row * side))
    sprite.save(folder / "embeddings.png")

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="embeddings",
        tensor_path="embeddings.tsv",
        metadata_path="embeddings_images.tsv",
    )
    embedding.sprite.image_path = "embeddings.png"
    embedding.sprite.single_image_dim.extend([side, side])
    projector.visualize_embeddings(str(folder), config)


def _cell(value):
    """A value as text without the characters that separate cells."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())
