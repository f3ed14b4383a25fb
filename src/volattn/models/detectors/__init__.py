"""Detectors: what finds boxes (and masks in them) on the attended pyramid."""
