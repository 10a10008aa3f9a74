"""The paper's experiments and tables, and reports of runs beside the paper's numbers.

Takes a folder of finished runs; writes tables as text, Markdown, CSV or an HTML page.
"""
