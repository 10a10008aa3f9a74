"""The proxy tasks' views, and synthetic anomalies (Sections 2.2 and 5.3, Appendix A.2).

In go batches of images and a seed; out come views with labels, or masks of shapes. All functions
are pure and give the same numbers eagerly, in a graph, under XLA and in tf.data.
"""
