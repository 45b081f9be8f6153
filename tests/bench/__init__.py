"""Measures, never asserts: machines are shared, so figures are ratios and medians of one run. `make bench`."""
