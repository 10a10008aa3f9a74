"""A local web page on which finished runs inspect images.

For an image and a threshold, the page shows verdict, score, heat map and nearest normal images.
"""
