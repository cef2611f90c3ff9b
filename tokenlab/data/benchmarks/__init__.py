"""Benchmarks: data sets with their protocol, one file each; defining one registers it."""
