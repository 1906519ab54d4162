"""A budget divided by what heads need (`allocation="auto"`), and the guard of a chunk's tokens."""

from __future__ import annotations

from pathlib import Path

import a2sf
import numpy as np
import pytest

TEXT = "Nora keeps the stone letter in the white sack. " * 40


@pytest.fixture(scope="module")
def engine() -> a2sf.Engine:
    return a2sf.Engine()


@pytest.fixture(scope="module")
def ids(engine: a2sf.Engine) -> list[int]:
    return engine.tokenize(TEXT)[:400]


def budgets(engine: a2sf.Engine, ids: list[int], **options: object) -> np.ndarray:
    session = engine.session(eviction=a2sf.Eviction(**{"budget": 100, **options}))
    session.feed(ids)
    assert session.cache.live.tolist() == np.minimum(session.cache.budgets, len(ids)).tolist()
    return session.cache.budgets


def test_a2sf_divides_and_others_do_not(engine: a2sf.Engine, ids: list[int]) -> None:
    divided = budgets(engine, ids)
    assert divided.mean() == 100
    assert divided.max() > 150
    assert divided.min() < 60
    assert (budgets(engine, ids, allocation="equal") == 100).all()
    for policy in set(a2sf.policies()) - {"full", "a2sf"}:
        assert (budgets(engine, ids, policy=policy) == 100).all()
    # What each head is measured to need is the model's: no policy, no text changes it.
    streaming = budgets(engine, ids[::-1], policy="streaming", allocation="auto")
    assert np.abs(streaming - divided).max() <= 25  # other protections set another least


def test_heads_that_look_far_back_get_more(engine: a2sf.Engine, ids: list[int]) -> None:
    """Against what eviction to the sinks and the newest tokens does to each head alone."""
    divided = budgets(engine, ids, sinks=0, recent=0)
    n_heads = divided.size
    text = engine.tokenize((Path(__file__).parents[2] / "models/demo.txt").read_text())[:1200]
    full = engine.score(text)
    lost = []
    for head in range(n_heads):
        shares = np.full(n_heads, 100.0)
        shares[head] = 1.0
        near = a2sf.Eviction(
            policy="streaming", budget=900, prefill="token", allocation=shares, sinks=4
        )
        lost.append(float((full - engine.score(text, eviction=near)).mean()))
    assert set(np.argsort(lost)[-2:]) == set(np.argsort(divided.ravel())[-2:])


def test_heads_are_measured_when_something_has_to_leave(
    engine: a2sf.Engine, ids: list[int]
) -> None:
    session = engine.session(eviction=a2sf.Eviction(budget=120))
    equal = engine.session(eviction=a2sf.Eviction(budget=120, allocation="equal"))
    for at in range(0, 120, 40):
        for other in (session, equal):
            other.feed(ids[at : at + 40])
        assert (session.cache.budgets == 120).all()
    for token in ids[120:250]:
        for other in (session, equal):
            other.feed([token])
    assert session.cache.budgets.max() > 200
    assert session.cache.live.sum() <= equal.cache.live.sum() == 120 * session.cache.live.size
    assert session.cache.bytes <= equal.cache.bytes * 1.01


def test_saved_and_forked_sessions_keep_their_division(
    engine: a2sf.Engine, ids: list[int], tmp_path: Path
) -> None:
    session = engine.session(eviction=a2sf.Eviction(budget=48))
    for n_read in (30, 200):  # before and after anything was divided
        session.feed(ids[:n_read])
        session.save(tmp_path / "s.session")
        others = (engine.session(load=tmp_path / "s.session"), session.fork())
        assert others[0].cache.budgets.tolist() == session.cache.budgets.tolist()
        expected = session.generate(max_tokens=40)
        for other in others:
            found = other.generate(max_tokens=40)
            assert found.ids == expected.ids
            assert found.logprobs == expected.logprobs
            np.testing.assert_array_equal(other.cache.live, session.cache.live)


def test_heads_of_a_layer_that_share_their_tokens_get_the_same(
    engine: a2sf.Engine, ids: list[int]
) -> None:
    divided = budgets(engine, ids, scope="layer")
    assert (divided == divided[:, :1]).all()
    assert len(set(divided[:, 0].tolist())) > 1


def test_a_share_of_a_text_gives_no_head_more_than_the_text(
    engine: a2sf.Engine, ids: list[int]
) -> None:
    divided = budgets(engine, ids, budget="50%")
    assert len(ids) - 2 <= divided.max() <= len(ids) + 1
    assert divided.mean() == len(ids) / 2


@pytest.mark.parametrize("prefill", ["token", "chunk"])
@pytest.mark.parametrize("policy", ["h2o", "a2sf"])
def test_compact_positions_of_uneven_heads(
    engine: a2sf.Engine, ids: list[int], policy: str, prefill: str
) -> None:
    """In the first layer a head does as if all heads had its budget: it sees nothing of the others.

    Queries are turned once for all heads, so that a head's own tokens stand behind those of larger
    ones; distances are what counts.
    """
    shares = np.linspace(0.5, 1.5, engine.info.n_layers * engine.info.n_kv_heads)
    options = {"policy": policy, "prefill": prefill, "positions": "compact"}
    if policy == "a2sf":
        options["forgetting_factor"] = 0.95  # its own depends on the budget
    uneven = engine.session(eviction=a2sf.Eviction(**options, budget=80, allocation=shares[::-1]))
    feeds = [ids[:200], *([token] for token in ids[200:230]), ids[230:260], ids[260:261]]
    for feed in feeds:
        uneven.feed(feed)
    sizes = uneven.cache.budgets[0]
    assert len(set(sizes.tolist())) == len(sizes)
    for head, size in enumerate(sizes.tolist()):
        even = engine.session(eviction=a2sf.Eviction(**options, budget=size, allocation="equal"))
        for feed in feeds:
            even.feed(feed)
        found, expected = uneven.cache.scores(0, head), even.cache.scores(0, head)
        same = uneven.cache.positions(0, head) == even.cache.positions(0, head)
        assert same.mean() > 0.9  # RoPE rounds otherwise at other places
        assert np.abs(found - expected)[same].max() < 0.02 * expected.max()


def test_the_guard_keeps_keys_unlike_the_others(engine: a2sf.Engine, ids: list[int]) -> None:
    """Of a chunk's survivors, and of nothing else: one token at a time nothing is guarded."""

    def kept(**options: object) -> list[list[int]]:
        eviction = a2sf.Eviction(**{"budget": 80, "allocation": "equal", **options})
        session = engine.session(eviction=eviction)
        session.feed(ids)
        return [session.cache.positions(0, head).tolist() for head in range(2)]

    plain, guarded = kept(guard=0), kept(guard=0.5)
    assert plain != guarded
    # With all slots guarded the attention that was paid does not matter.
    assert kept(guard=1, forgetting_factor=0.5) == kept(guard=1, forgetting_factor=1)
    for prefill in ("token", "full"):
        assert kept(guard=0, prefill=prefill) == kept(guard=1, prefill=prefill)


@pytest.mark.parametrize("guard", [-0.1, 1.1, float("nan")])
def test_guards_that_make_no_sense_are_refused(guard: float) -> None:
    with pytest.raises(a2sf.OptionError, match="guard: a share from 0 to 1 expected"):
        a2sf.Eviction(guard=guard)


@pytest.mark.parametrize("policy", ["streaming", "keydiff", "full"])
def test_policies_without_scores_have_no_guard(policy: str) -> None:
    with pytest.raises(a2sf.OptionError, match="guard"):
        a2sf.Eviction(policy=policy, guard=0.5)


def test_an_eviction_file_holds_both(tmp_path: Path) -> None:
    path = tmp_path / "x.eviction"
    for allocation in ("auto", "equal"):
        eviction = a2sf.Eviction(budget=64, guard=0.125, allocation=allocation)
        eviction.save(path)
        assert a2sf.Eviction.load(path) == eviction
