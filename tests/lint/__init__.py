"""Checks of the source tree itself: layers, sizes, registries, symbols. See rules.py."""
