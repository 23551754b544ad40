"""The driver of the book: ``python -m nwslib.book check | run | build | make``.

``check`` lints notebooks and parameter files, ``run`` executes the chapters with papermill, ``build`` makes HTML of the
executed chapters, ``make`` does the three in turn. It reads the chapters, and imports nothing that they import.
"""
