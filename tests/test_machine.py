"""The machine."""

import keras

from cutpaste_tf import machine


def test_device_names_the_cores_here():
    assert "CPU" in machine.device() or keras.backend.backend() == "tensorflow"
