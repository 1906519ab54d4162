"""NumPy oracles of the decoder and of the eviction policies: slow, obvious, nothing from a2sf.

Import `reference.decoder`, `reference.policies`, and so on, with `tests/` on sys.path (pyproject's
pytest section puts it there).
"""
