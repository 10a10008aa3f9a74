"""ONNX files without a network, as `export` writes those with one."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper

from cutpaste_tf.config import Config
from cutpaste_tf.predict import exported
from cutpaste_tf.predict.exported import Description
from cutpaste_tf.threshold import Threshold


def write_model(path, **metadata):
    """Writes a graph without a network: an image's score is the logarithm of its mean level."""
    nodes = [
        helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Log", ["mean"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", "h", "w", 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["b"])],
        [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    description = Description(
        config=Config(dataset="folder", data_dir="x", category="part"),
        bits=16,
        threshold=Threshold(4.0, 0.1, 5),
        normal_scores=np.arange(1.0, 6.0),
        level=None,
        pixel_threshold=None,
    )
    values = json.loads(description.to_json()) | metadata
    helper.set_model_props(made, {exported.KEY: json.dumps(values)})
    onnx.save(made, str(path))
    return path
