"""The command line: help, version, and bad usage, which ends with status 2 and a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_program import a2sf, option_names

SHARED = {
    "--model", "--threads", "--device", "--policy", "--budget", "--forgetting-factor", "--sinks",
    "--recent", "--scope", "--pooling", "--prefill", "--batch", "--kv-type", "--seed", "--json",
    "--quiet", "--window", "--positions", "--pinned",
}  # fmt: skip
RUN = {
    "--prompt", "--file", "--max-tokens", "--temp", "--top-k", "--top-p", "--min-p",
    "--repeat-penalty", "--stop", "--ids",
}  # fmt: skip


def commands() -> list[str]:
    """Sub-commands that --help lists, but for the one whose options are Python's."""
    text = a2sf("--help").stdout
    listed = text.split("Commands:\n")[1].split("\n\n")[0]
    names = [line.split()[0] for line in listed.splitlines()]
    assert "serve" in names
    return [name for name in names if name != "serve"]


def test_help_lists_the_commands() -> None:
    done = a2sf("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert {"run", "inspect", "perplexity", "bench"} <= set(commands())
    assert a2sf("-h").stdout == done.stdout


def test_version() -> None:
    done = a2sf("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("a2sf ")
    assert done.stdout.count(".") == 2


def test_every_command_has_help_on_stdout() -> None:
    for command in commands():
        done = a2sf(command, "--help")
        assert (done.returncode, done.stderr) == (0, ""), command
        assert f"Usage: a2sf {command}" in done.stdout
        assert all(len(line) <= 100 for line in done.stdout.splitlines())
        # Anywhere on the line, whatever else is there.
        assert a2sf(command, "-m", "x", "--help").stdout == done.stdout


def test_contracted_options_exist() -> None:
    assert set(option_names(a2sf("run", "--help").stdout)) >= SHARED | RUN
    perplexity = set(option_names(a2sf("perplexity", "--help").stdout))
    assert perplexity >= SHARED | {"--file", "--ctx", "--tokens"}
    bench = set(option_names(a2sf("bench", "--help").stdout))
    assert bench >= SHARED | {"--prompts", "--generate", "--depth", "--repetitions", "--output"} | {
        "--limits",
        "--memory",
    }
    assert set(option_names(a2sf("inspect", "--help").stdout)) >= {"--model", "--json", "--tensors"}


def test_help_lists_policies() -> None:
    text = a2sf("run", "--help").stdout
    for name in ("full", "a2sf", "a2sf-paper", "h2o", "tova", "streaming", "snapkv"):
        assert f"\n  {name} " in text


def test_help_lists_the_devices_of_this_build() -> None:
    """What --device names in its help, it also knows."""
    text = a2sf("run", "--help").stdout
    known = a2sf("run", "-p", "x", "--device", "none").stderr
    for name in ("cpu", "cuda", "auto"):
        help_text = text.split("--device NAME")[1].split("--batch")[0]
        assert (name in help_text) == (name in known), known


BAD_VALUES = {
    "--threads": ["12x", "0", "-1", "", "1e3", " 4", "99999999999999999999999"],
    "--batch": ["12x", "0", "-1", "", "99999999999"],
    "--seed": ["x", "-1", "1.5", "18446744073709551616"],
    "--device": ["gpu", ""],
    "--policy": ["lru", "", "A2SF"],
    "--budget": ["0", "-1", "abc", "", "%", "101%", "0%", "-5%", "nan%", "1.5", "12x"],
    "--forgetting-factor": ["1.1", "-0.1", "x", "nan", "inf", "0,9", ""],
    "--sinks": ["-1", "x", "1.0", ""],
    "--recent": ["-1", "101%", "x", ""],
    "--window": ["-1", "x"],
    "--scope": ["token", ""],
    "--pooling": ["2", "0", "-1", "x"],
    "--prefill": ["none", ""],
    "--pinned": ["", "-1", "7-3", "1,", "a", "1-", "0-2147483648", "1;2"],
    "--kv-type": ["f8", "F16", ""],
}
BAD_RUN_VALUES = {
    "--max-tokens": ["-1", "12x", "99999999999", ""],
    "--temp": ["-1", "x", "nan", "inf", "1e99", ""],
    "--top-k": ["-1", "x", "1.5"],
    "--top-p": ["0", "1.1", "-1", "x", "nan"],
    "--min-p": ["-0.1", "1.1", "x"],
    "--repeat-penalty": ["0", "-1", "x", "inf"],
    "--stop": ["", "\\q", "end\\"],
}


def cases() -> list[tuple[str, str]]:
    table = BAD_VALUES | BAD_RUN_VALUES
    return [(option, value) for option, values in table.items() for value in values]


@pytest.mark.parametrize(("option", "value"), cases())
def test_bad_value(option: str, value: str) -> None:
    done = a2sf("run", "-m", "/no/model", "-p", "x", f"{option}={value}")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(f"a2sf: {option}: ")
    assert "expected" in done.stderr
    assert "found" in done.stderr
    assert "Try 'a2sf run --help'" in done.stderr


@pytest.mark.parametrize("option", BAD_VALUES)
def test_bad_value_of_bench(option: str) -> None:
    done = a2sf("bench", "-m", "/no/model", f"{option}={BAD_VALUES[option][0]}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"a2sf: {option}: ")


@pytest.mark.parametrize("option", BAD_VALUES)
def test_bad_value_of_perplexity(option: str) -> None:
    done = a2sf(
        "perplexity", "-m", "/no/model", "-f", "/no/text", f"{option}={BAD_VALUES[option][0]}"
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"a2sf: {option}: ")


def test_every_listed_option_checks_for_its_value() -> None:
    for command in commands():
        text = a2sf(command, "--help").stdout
        for line in text.splitlines():
            names = option_names(line)
            if not names:
                continue
            takes_value = len(line[6:].split(" ")) > 1 and line[6:].split(" ")[1] != ""
            if takes_value:
                done = a2sf(command, names[0])
                assert "found the end of the line" in done.stderr, names
            else:
                done = a2sf(command, f"{names[0]}=1")
                assert "no value expected" in done.stderr, names
            assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command expected"),
        (["rnu"], "rnu: unknown command; did you mean run?"),
        (["perplex"], "did you mean perplexity?"),
        (["zzzzzz"], "zzzzzz: unknown command\n"),
        (["--versoin"], "did you mean --version?"),
        (["run", "--polcy", "a2sf"], "--polcy: unknown option; did you mean --policy?"),
        (["run", "--forgetting=1"], "did you mean --forgetting-factor?"),
        (["run", "--temperature", "1"], "did you mean --temp?"),
        (["run", "-n5"], "did you mean -n 5?"),
        (["run", "-Z"], "-Z: unknown option"),
        (["run", "---"], "---: unknown option"),
        (["perplexity", "--temp", "1"], "--temp: unknown option of a2sf perplexity"),
        (["inspect", "--policy", "h2o"], "--policy: unknown option of a2sf inspect"),
        (["run", "hello"], "-p TEXT"),
        (["run", "-p", "x", "--", "-p"], "-p TEXT"),
        (["run", "-p"], "-p: TEXT expected, found the end of the line"),
        (["run", "-p", "--json"], "write -p=--json"),
        (["run", "--json=yes"], "--json: no value expected"),
        (["run", "-p", "x", "-f", "y"], "--prompt, --file: one of them"),
        (["perplexity"], "--file: "),
        (["inspect", "a.gguf", "b.gguf"], "one file expected"),
        (["run", "-p", "x", "--budget", "2"], "--budget: at least 4 tokens"),
        (["run", "-p", "x", "--budget", "64", "--recent", "64"], "--budget: at least 68"),
        (["run", "-p", "x", "--policy", "full", "--budget", "64"], "--budget: "),
        (["run", "-p", "x", "--policy", "full", "--sinks", "4"], "--sinks: "),
        (["run", "-p", "x", "--policy", "full", "--pinned", "4"], "--pinned: "),
        (["run", "-p", "x", "--budget", "64", "--pinned", "0-40,90-100"], "--budget: at least 66"),
        (["run", "-p", "x", "--policy", "tova", "--window", "4"], "--window: "),
        (
            ["run", "-p", "x", "--policy", "snapkv", "--forgetting-factor", "1"],
            "--forgetting-factor: ",
        ),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = a2sf(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr


def test_both_spellings_of_a_value(llama: Path) -> None:
    spaced = a2sf("run", "-m", llama, "-p", "a", "-n", "3", "--kv-type", "f32", "-q")
    joined = a2sf("run", f"--model={llama}", "-p=a", "--max-tokens=3", "--kv-type=f32", "-q")
    assert spaced.returncode == 0
    assert spaced.stdout == joined.stdout


def test_missing_device_is_an_error(llama: Path) -> None:
    done = a2sf("run", "-m", llama, "-p", "a", "-n", "1", "--device", "cuda")
    if done.returncode == 0:
        pytest.skip("there is a CUDA device")
    assert done.returncode == 1
    start = "a2sf: device 'cuda': a usable one expected (cpu), found: "
    assert done.stderr.startswith(start)
    # Of a build with CUDA, what the machine lacks.
    built = "this a2sf was built without CUDA (CMake option A2SF_CUDA)"
    lacking = ("no NVIDIA driver", "an NVIDIA driver", "a GPU of compute capability", built)
    assert done.stderr.removeprefix(start).startswith(lacking)
    auto = a2sf("run", "-m", llama, "-p", "a", "-n", "1", "--device", "auto", "--json")
    assert (auto.returncode, json.loads(auto.stdout)["options"]["device"]) == (0, "cpu")
