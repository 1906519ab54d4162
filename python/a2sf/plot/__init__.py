"""Looks inside a KV cache: what it holds, since when, and how the scores are spread.

`record` reads a text and notes what every head holds on the way. `kept_over_time`,
`kept_overview` and `score_distribution` draw with matplotlib (extra `plot`); `text_view` writes a
page with the text itself, shaded by how many heads still hold each token, and needs no package.
`python -m a2sf.plot` makes that page from a model and a text.

>>> session = a2sf.Engine().session(eviction=a2sf.Eviction(budget=64, prefill="token"))
>>> recording = a2sf.plot.record(session, ids, every=16)
>>> a2sf.plot.text_view(engine, ids, recording, "page.html")
>>> a2sf.plot.kept_over_time(recording, 0, 0).savefig("kept.png")
"""

from ._figures import kept_over_time, kept_overview, score_distribution
from ._recording import Recording, record, snapshot
from ._text_view import text_view

__all__ = [
    "Recording",
    "kept_over_time",
    "kept_overview",
    "record",
    "score_distribution",
    "snapshot",
    "text_view",
]
