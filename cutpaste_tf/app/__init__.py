"""A local web page on which finished runs inspect images.

An image and a threshold go in; out come verdict, score, heat map and the nearest normal images.
"""
