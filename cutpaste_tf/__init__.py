"""CutPaste: self-supervised anomaly detection and localisation (Li et al., CVPR 2021)."""

import os

__version__ = "0.1.0"

# TensorFlow leaves oneDNN off on AMD processors, where it makes a training step up to 3.5 times
# faster. The variable is only read when TensorFlow is imported, so it is set here, before that;
# a value that the user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
