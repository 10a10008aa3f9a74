"""The paper's experiments and tables, and reports of what runs have reached of them.

A work directory of finished runs goes in; tables as text, Markdown, CSV, LaTeX or a page come out.
"""
