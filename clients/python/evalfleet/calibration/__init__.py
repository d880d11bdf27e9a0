"""Calibration of guard cascades: which verdicts of a cheap guard can stand, with a promise that holds.

    from evalfleet.calibration.fitting import JudgedRow, Promise, fit_cascade

Plain Python on purpose: whoever can reach a safety service can calibrate its guards, with nothing else installed.
"""
