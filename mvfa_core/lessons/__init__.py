"""What the notebooks in `notebooks/walkthrough` call: measurements, pictures and widgets of the lessons.

Nothing of the benchmark imports from here. `style.py` holds what all lessons share, every other module
belongs to the lesson that its name tells of.
"""
