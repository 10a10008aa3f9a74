"""Tests of cutpaste_tf.report."""
