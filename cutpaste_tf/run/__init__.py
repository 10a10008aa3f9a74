"""One run: one category, trained and evaluated with one seed (Section 2).

In go settings and a category's images. Out come the run's folder and what was measured.
"""
