"""The proxy tasks' views, and synthetic anomalies (Sections 2.2 and 5.3, Appendix A.2).

The functions take batches of images and a seed, and return views with labels, or masks of shapes.
All are pure and give the same numbers eagerly, in a graph, under XLA and in tf.data.
"""
