"""Options of the server: refused when they are built, with where, expected, found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import a2sf
import pytest
from a2sf.serve import ServerOptions
from a2sf.serve._arguments import eviction_from, make_parser, options_from

Options = dict[str, Any]


@pytest.mark.parametrize("name", ["api_keys", "cors_origins", "allowed_hosts"])
@pytest.mark.parametrize("value", ["secret", b"secret", {"secret"}, 7, None, ["a", 7], (b"a",)])
def test_lists_of_another_type(name: str, value: Any) -> None:
    """A lone text would be taken as one key per letter."""
    with pytest.raises(TypeError, match=rf"^{name}: .*str expected, found "):
        ServerOptions(**{name: value})


@pytest.mark.parametrize("name", ["api_keys", "cors_origins", "allowed_hosts"])
@pytest.mark.parametrize("value", ["", " ", " a", "a ", "a\n", "a\tb", "\u00fc"])
def test_texts_that_no_header_holds(name: str, value: str) -> None:
    with pytest.raises(a2sf.OptionError, match=rf"^{name}: .* expected, found") as refused:
        ServerOptions(**{name: ("fine", value)})
    assert "fine" not in str(refused.value)  # keys are secret


def test_lists_are_kept_as_tuples() -> None:
    options = ServerOptions(api_keys=["a b", "c"])  # type: ignore[arg-type]
    assert options.api_keys == ("a b", "c")
    assert options == ServerOptions(api_keys=("a b", "c"))


@pytest.mark.parametrize(
    "options",
    [
        {"parallel": 0}, {"parallel": True}, {"queue": -1}, {"queue": 1.5}, {"timeout_s": -1},
        {"grace_s": float("nan")}, {"max_request_bytes": 0}, {"max_tokens_limit": 0},
        {"model_name": " "}, {"temperature": -1}, {"allowed_hosts": ("a.example:80",)},
        {"allowed_hosts": ("[]",)}, {"allowed_hosts": ("*.example",)},
    ],
    ids=str,
)  # fmt: skip
def test_values_out_of_range(options: Options) -> None:
    (name,) = options
    with pytest.raises(a2sf.OptionError, match=rf"^{name}: .*expected"):
        ServerOptions(**options)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ([], {"localhost", "127.0.0.1", "::1"}),
        (["--host", "LOCALHOST"], {"localhost", "127.0.0.1", "::1"}),
        (["--host", "127.0.0.5"], {"localhost", "127.0.0.1", "::1", "127.0.0.5"}),
        (["--host", "0.0.0.0"], set()),
        (["--host", "no such host"], set()),
        (["--host", "a..b"], set()),
        (["--api-key", "secret"], set()),
        (
            ["--allowed-host", "a.example", "--allowed-host", "b.example"],
            {"a.example", "b.example"},
        ),
    ],
    ids=str,
)
def test_hosts_that_the_command_allows(
    monkeypatch: pytest.MonkeyPatch, line: list[str], allowed: set[str]
) -> None:
    monkeypatch.delenv("A2SF_API_KEY", raising=False)
    given = vars(make_parser().parse_args(line))
    assert set(options_from(given).allowed_hosts) == allowed


def test_help_shows_a_share_as_one_writes_it() -> None:
    assert "%%" not in make_parser().format_help()
    assert "--budget N|R% " in make_parser().format_help()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([], None),
        (["--policy", "full"], a2sf.Eviction(policy="full")),
        (["--budget", "64"], a2sf.Eviction(budget=64, positions="compact")),
        (["--policy", "h2o"], a2sf.Eviction(policy="h2o", positions="compact")),
        (
            ["--budget", "25%", "--positions", "original"],
            a2sf.Eviction(budget="25%", positions="original"),
        ),
        (["--pinned", "57"], a2sf.Eviction(pinned=range(57), positions="compact")),
        (
            ["--pinned", "3,100-120"],
            a2sf.Eviction(pinned=[(0, 3), (100, 120)], positions="compact"),
        ),
    ],
    ids=str,
)
def test_cache_options(line: list[str], expected: a2sf.Eviction | None) -> None:
    assert eviction_from(vars(make_parser().parse_args(line))) == expected


@pytest.mark.parametrize("wrong", ["x", "5-", "-5", "1,,2", ""])
def test_pinned_is_ranges(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args([f"--pinned={wrong}"])
    assert f"--pinned: invalid ranges value: '{wrong}'" in capsys.readouterr().err


def test_eviction_file(tmp_path: Path) -> None:
    path = tmp_path / "some.eviction"
    a2sf.Eviction(policy="h2o", budget=77, sinks=3).save(path)
    given = vars(make_parser().parse_args(["--eviction-file", str(path), "--sinks", "5"]))
    expected = a2sf.Eviction(policy="h2o", budget=77, sinks=5, positions="compact")
    assert eviction_from(given) == expected
    a2sf.Eviction(budget=77, positions="original").save(path)
    given = vars(make_parser().parse_args(["--eviction-file", str(path)]))
    assert eviction_from(given) == a2sf.Eviction(budget=77, positions="original")
