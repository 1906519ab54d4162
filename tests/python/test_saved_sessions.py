"""Saved sessions through Python: bit for bit, their own errors, forks."""

from __future__ import annotations

from pathlib import Path

import a2sf
import numpy as np
import pytest

IDS = list(range(100, 400))


@pytest.fixture(scope="module")
def engine() -> a2sf.Engine:
    return a2sf.Engine(eviction=a2sf.Eviction(policy="a2sf", budget=64), progress=False)


def test_a_loaded_session_goes_on_as_the_saved_one(engine: a2sf.Engine, tmp_path: Path) -> None:
    session = engine.session()
    session.feed(IDS)
    session.save(tmp_path / "a.session", ids=IDS)
    loaded = engine.session(load=tmp_path / "a.session")
    forked = loaded.fork()
    assert loaded.n_tokens == forked.n_tokens == len(IDS)
    assert loaded.saved_ids.tolist() == forked.saved_ids.tolist() == IDS
    expected = session.generate(max_tokens=20)
    for other in (loaded, forked):
        assert other.generate(max_tokens=20).ids == expected.ids
        assert np.array_equal(other.cache.live, session.cache.live)
    # K, V, scores of 64 slots a head, not of 300.
    assert (tmp_path / "a.session").stat().st_size < 2 * session.cache.bytes


def test_a_file_of_other_options_or_none_is_an_error(engine: a2sf.Engine, tmp_path: Path) -> None:
    file = tmp_path / "b.session"
    session = engine.session()
    session.feed(IDS)
    session.save(file)
    other = a2sf.Eviction(policy="a2sf", budget=65)
    with pytest.raises(a2sf.SavedSessionError, match="leave them out"):
        engine.session(load=file, eviction=other)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(a2sf.SavedSessionError, match="damaged"):
        engine.session(load=file)
    file.write_text("no session")
    with pytest.raises(ValueError, match="a saved session expected"):
        engine.session(load=file)
    with pytest.raises(a2sf.Error, match="missing"):
        engine.session(load=tmp_path / "missing.session")


def test_a_full_disk_leaves_the_old_file(engine: a2sf.Engine, tmp_path: Path) -> None:
    session = engine.session()
    session.feed(IDS)
    with pytest.raises(a2sf.Error, match="expected, found"):
        session.save("/dev/full/x")
    session.save(tmp_path / "c.session")
    assert [p.name for p in tmp_path.iterdir()] == ["c.session"]


def test_a_path_with_nul_is_refused_not_cut(tmp_path: Path) -> None:
    engine = a2sf.Engine()
    session = engine.session()
    session.feed([5, 6])
    kept = tmp_path / "kept"
    kept.write_text("mine")
    for use in (session.save, lambda path: engine.session(load=path), a2sf.Engine):
        with pytest.raises(ValueError, match="without NUL"):
            use(f"{kept}\0.session")
    assert kept.read_text() == "mine"
