"""The parts that pages of ours are made of: HTML that escapes, tables, small plots in SVG, one style sheet.

They know nothing of runs; ``evalfleet.reports`` puts numbers into them. They need nothing but Python.
"""
