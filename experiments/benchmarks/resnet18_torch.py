"""PyTorch's side of training_step.py: the same ResNet-18, its training step, and our weights in it.

This imports PyTorch, so only a process without TensorFlow imports this.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride of the first block


def _convolution(inputs, outputs, kernel, stride):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two convolutions and a shortcut.

    Args:
      inputs: the input's channels.
      outputs: the output's channels.
      stride: the first convolution's stride.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _convolution(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs)
        self.changes = stride > 1 or inputs != outputs
        if self.changes:
            self.conv0 = _convolution(inputs, outputs, 1, stride)
            self.bn0 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [B, outputs, H / stride, W / stride] of [B, inputs, H, W]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.changes:
            x = self.bn0(self.conv0(x))
        y += x
        return F.relu(y, inplace=True)


class Network(nn.Module):
    """ResNet-18 with the large stem, a linear layer of `dims` and three logits."""

    def __init__(self, dims: int):
        super().__init__()
        self.stem, self.stem_bn = _convolution(3, 64, 7, 2), nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for channels, stride in STAGES:
            blocks += [Block(inputs, channels, stride), Block(channels, channels, 1)]
            inputs = channels
        self.blocks = nn.ModuleList(blocks)
        self.projection = nn.Linear(inputs, dims, bias=False)
        self.logits = nn.Linear(dims, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits, [B, 3], of images, [B, 3, H, W] in [0, 1]."""
        x = F.relu(self.stem_bn(self.stem(x * 4.0 - 2.0)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.projection(x.mean((2, 3))))


def _keras_names(network):
    """The names of our layers by PyTorch's."""
    names = {"stem": "stem_conv"}
    for number in range(len(network.blocks)):
        for part in ("conv0", "bn0", "conv1", "bn1", "conv2", "bn2"):
            place = f"conv{number // 2 + 2}_block{number % 2 + 1}_{part[-1]}"
            names[f"blocks.{number}.{part}"] = f"{place}_{part[:-1]}"
    return names


def _load(network, path):
    """Sets a network's weights to ours; returns their number."""
    names = _keras_names(network)
    with np.load(path) as weights, torch.no_grad():
        for name, parameter in network.named_parameters():
            module, kind = name.rsplit(".", 1)
            layer = names.get(module, module)
            if layer.endswith("bn"):
                kind = {"weight": "gamma", "bias": "beta"}[kind]
            value = weights[f"{layer}/{kind.replace('weight', 'kernel')}"]
            if value.ndim == 4:
                value = value.transpose(3, 2, 0, 1)
            elif value.ndim == 2:
                value = value.T
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return sum(parameter.numel() for parameter in network.parameters())


def methods(
    views: np.ndarray, labels: np.ndarray, *, rate: float, momentum: float, decay: float, dims: int
) -> Mapping[str, Callable[..., Any]]:
    """Builds the network and returns the worker's methods.

    Args:
      views: float32 [B, H, W, 3].
      labels: int [B].
      rate: learning rate.
      momentum: SGD's momentum.
      decay: what half the squared norm of all weights is multiplied by.
      dims: length of the projection.

    Returns:
      "constants" returns the seconds of a step on the views; "load" reads our weights; "losses"
      returns the losses of some steps, with the L2 penalty.
    """
    network = Network(dims).to(memory_format=torch.channels_last).train()
    images = torch.from_numpy(np.ascontiguousarray(views.transpose(0, 3, 1, 2))).contiguous(
        memory_format=torch.channels_last
    )
    classes = torch.from_numpy(labels.astype(np.int64))
    weights = list(network.parameters())
    optimizer = torch.optim.SGD(weights, lr=rate, momentum=momentum, weight_decay=decay, fused=True)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), classes)
        loss.backward()
        optimizer.step()
        return loss

    def seconds(steps):
        began = time.perf_counter()
        for _ in range(steps):
            loss = step()
        loss.item()
        return (time.perf_counter() - began) / steps

    def losses(steps):
        found = []
        for _ in range(steps):
            with torch.no_grad():
                penalty = decay / 2 * sum(float((w.double() ** 2).sum()) for w in weights)
            found.append(step().item() + penalty)
        return found

    return {"constants": seconds, "load": lambda path: _load(network, path), "losses": losses}
