"""Training of the proxy classifier (Section 2.1, Appendix A.1).

In go the normal images and the settings; out come the weights of backbone and head in a run's
`checkpoints/`, TensorBoard's files, and a summary of what the training took.
"""
