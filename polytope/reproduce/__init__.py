"""The tables and figures of the papers: trained or loaded, measured, published beside measured.

>>> from polytope.reproduce.reproduce import reproduce
>>> print(reproduce("recurjac-figure2", "smoke").text)  # doctest: +SKIP
"""
