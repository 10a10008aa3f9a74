"""CutPaste: self-supervised anomaly detection and localisation (Li et al., CVPR 2021).

    from cutpaste_tf import Detector, make_views

`Detector` scores images with a finished run; `make_views` makes the proxy tasks' augmented views.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutpaste_tf.augment.proxy import make_views
    from cutpaste_tf.scoring.detector import Detector

__all__ = ["Detector", "make_views"]
__version__ = "0.2.0"

# TensorFlow leaves oneDNN off on AMD processors, where oneDNN makes a training step up to 3.5 times
# faster. TensorFlow reads the variable at import. A value that the user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Libraries must not report their use to their makers, or look for newer versions.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    RAY_USAGE_STATS_ENABLED="0",
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_RUN_HISTORY="False",
    HF_HUB_DISABLE_TELEMETRY="1",
    NO_GCE_CHECK="true",  # Otherwise TensorFlow asks the network whether it runs in Google's cloud.
)

_HOMES = {"Detector": "cutpaste_tf.scoring.detector", "make_views": "cutpaste_tf.augment.proxy"}


def __getattr__(name: str) -> Any:
    # Imported at first use: TensorFlow takes seconds to load, and --help must not wait for it.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
