"""MVTec AD (Bergmann et al., CVPR 2019): 15 categories of industrial images with defects.

Get it from https://www.mvtec.com/company/research/datasets/mvtec-ad (the whole archive
`mvtec_anomaly_detection.tar.xz`, or archives of single categories such as `bottle.tar.xz`). It is
licensed CC BY-NC-SA 4.0: not for commercial use.
"""

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from cutpaste_tf.choices import MVTEC_OBJECTS, MVTEC_TEXTURES
from cutpaste_tf.data import decode, folder
from cutpaste_tf.data.split import Category, Split
from cutpaste_tf.files import UserError, locked

ARCHIVES = ("mvtec_anomaly_detection.tar.xz", "mvtec_anomaly_detection.tar")
_GET_IT = "https://www.mvtec.com/company/research/datasets/mvtec-ad"


class MvtecAd(tfds.core.GeneratorBasedBuilder):
    """MVTec AD as a TensorFlow data set, one configuration a category.

    The archive, or the folder that it unpacks to, belongs in the manual directory of tfds.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 - the name and type are tfds's
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put mvtec_anomaly_detection.tar.xz, an archive of one category, or the extracted folder "
        f"here; get it from {_GET_IT}."
    )
    BUILDER_CONFIGS = [  # noqa: RUF012 - the name and type are tfds's
        tfds.core.BuilderConfig(name=name, description=f"The category {name}.")
        for name in MVTEC_TEXTURES + MVTEC_OBJECTS
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                    "label": tfds.features.ClassLabel(names=["normal", "anomalous"]),
                    "defect_type": tfds.features.Text(),
                    "path": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=_GET_IT,
            license="CC BY-NC-SA 4.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        name = self.builder_config.name
        manual = pathlib.Path(dl_manager.manual_dir)
        root = extracted(manual, name)
        archive = find_archive(manual, name)
        if root is None and archive is not None:
            # The method is named because tfds does not know the ending .tar.xz.
            resource = tfds.download.Resource(
                path=archive, extract_method=tfds.download.ExtractMethod.TAR
            )
            root = extracted(pathlib.Path(dl_manager.extract(resource)), name)
        if root is None:
            raise UserError(_missing(manual, name))
        category = folder.load(root)
        return {
            "train": self._generate_examples(category.train),
            "test": self._generate_examples(category.test),
        }

    def _generate_examples(self, split: Split) -> Iterator[tuple[str, dict]]:
        columns = (split.names, split.images, split.defect_types, split.masks)
        for name, image, kind, mask in zip(*columns, strict=True):
            yield (
                name,
                {
                    "image": image,
                    "mask": np.zeros([*decode.size(image), 1], np.uint8) if mask is None else mask,
                    "label": int(kind != "good"),
                    "defect_type": kind,
                    "path": name,
                },
            )


def extracted(data_dir: pathlib.Path, category: str) -> pathlib.Path | None:
    """Returns the extracted folder of a category in or one level below a folder, or None."""
    for parent in (data_dir, data_dir / "mvtec_anomaly_detection", data_dir / "mvtec_ad"):
        if folder.is_category(parent / category):
            return parent / category
    return None


def find_archive(data_dir: pathlib.Path, category: str) -> pathlib.Path | None:
    """Returns the archive in a folder that holds a category, or None."""
    paths = [data_dir / name for name in (*ARCHIVES, f"{category}.tar.xz")]
    return next((path for path in paths if path.is_file()), None)


def load(data_dir: str, category: str) -> Category:
    """Loads a category from the extracted folder, or from the archive.

    The extracted folder is read as it is. An archive is turned into a TensorFlow data set once,
    in the data directory of TensorFlow Datasets (~/tensorflow_datasets, or TFDS_DATA_DIR).
    """
    root = extracted(pathlib.Path(data_dir), category)
    if root is not None:
        return folder.load(root)
    if find_archive(pathlib.Path(data_dir), category) is None:
        raise UserError(_missing(data_dir, category))
    builder = MvtecAd(config=category, data_dir=os.environ.get("TFDS_DATA_DIR"))
    # Runs at the same time share what is extracted.
    with locked(pathlib.Path(builder.data_dir).parents[2] / "mvtec_ad.lock"):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=data_dir),
        )

    def read(name):
        data = tfds.as_numpy(builder.as_dataset(split=name, shuffle_files=False))
        examples = sorted(data, key=lambda example: example["path"])
        return Split(
            names=[example["path"].decode() for example in examples],
            images=[example["image"] for example in examples],
            defect_types=[example["defect_type"].decode() for example in examples],
            # The data set has an empty mask for an image without one.
            masks=[e["mask"][..., 0] > 0 if e["mask"].any() else None for e in examples],
        )

    return Category(read("train"), read("test"))


def _missing(data_dir, category):
    return (
        f"{data_dir}: neither {category}/train/good nor {ARCHIVES[0]} is there; get MVTec AD from "
        f"{_GET_IT} and name its folder by --data_dir"
    )
