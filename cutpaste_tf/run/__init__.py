"""One run: one category, trained and evaluated with one seed (Section 2).

Takes the settings and a category's images; returns the results and writes the run's folder.
"""
