"""Training of the proxy classifier (Section 2.1, Appendix A.1).

`loop.train` takes the normal images and the settings, writes the weights of backbone and head to a
run's `checkpoints/`, and TensorBoard's files, and returns a summary of the training.
"""
