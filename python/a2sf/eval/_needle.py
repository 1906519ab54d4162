"""Whether a fact in the middle of a long text is found again, by length and depth."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .._core import OptionError
from .._engine import Engine
from . import _figures
from ._arguments import (
    add_eviction_arguments,
    budget_text,
    budgets_of,
    check_fits,
    engine_arguments,
    evictions,
    model_path,
    numbers,
    open_engine,
    with_full,
)
from ._groups import grouped_lines, partly
from ._haystack import least_length, make_prompt, sentences_of
from ._jobs import Job, Json, eviction_from, file_hash, read_text
from ._kinds import Table
from ._results import Row
from ._statistics import share_right

MAX_TOKENS = 24  # of an answer
LENGTHS = (1000, 2000, 4000, 7000)


class Needle:
    """`a2sf-eval needle`: a job is one prompt under one eviction."""

    name = "needle"
    summary = "a fact hidden at every depth of a long text, asked for at its end"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add lengths, depths, texts."""
        group = parser.add_argument_group("Prompts")
        add = group.add_argument
        known = ",".join(map(str, LENGTHS))
        add("--length", metavar="LIST",
            help=f"tokens of a prompt (those of {known} that the model reads)")  # fmt: skip
        add("--depth", default="0,25,50,75,100", metavar="LIST",
            help="where the fact is, per cent of the text (%(default)s)")  # fmt: skip
        add("--trials", type=int, default=2, metavar="N",
            help="prompts for each length and depth (%(default)s)")  # fmt: skip
        add("-f", "--file", metavar="FILE", help="text to hide it in (generated sentences)")
        add("--questions", metavar="FILE",
            help='instead of all these: JSON lines {"prompt": ..., "answer": ...}')  # fmt: skip
        add_eviction_arguments(parser, budget="128,256,512")

    def jobs(self, arguments: argparse.Namespace) -> list[Job]:
        """One for each prompt and eviction; the full cache is always among them."""
        path = arguments.questions or arguments.file
        if path is not None and not os.path.isfile(path):
            what = "file: a text" if arguments.questions is None else "questions: JSON lines"
            raise OptionError(f"{what} expected, found no file {path}")
        files = {} if path is None else {"text": os.path.abspath(path)}
        prompts: list[dict[str, Json]]
        if arguments.questions is not None:
            prompts = [{"question": i} for i in range(_check_questions(arguments))]
        else:
            prompts = _grid(arguments)
        return [
            Job(
                kind=self.name,
                model=model_path(arguments),
                options={
                    **prompt,
                    **({} if path is None else {"text": file_hash(path)}),
                    "eviction": eviction,
                },
                files=files,
                engine=engine_arguments(arguments),
            )
            for eviction in with_full(evictions(arguments))
            for prompt in prompts
        ]

    def run(self, engine: Engine, job: Job) -> dict[str, Json]:
        """Ask for the fact, greedily.

        Returns
        -------
        dict
            right: whether the number is in the answer (of `--questions`: whether the answer begins
            with what was expected); answer; n_prompt: tokens; prompt_s, decode_s; kv_bytes.
        """
        options = job.options
        text = job.files.get("text")
        if "question" in options:
            question = _questions(str(text))[options["question"]]
            ids, expected = engine.tokenize(question["prompt"]), question["answer"].strip()
        else:
            prompt = make_prompt(
                engine.tokenizer,
                options["length"],
                options["depth"] / 100,
                options["seed"],
                None if text is None else read_text(text),
            )
            ids, expected = prompt.ids, prompt.number
        answer = engine.generate(
            ids, max_tokens=MAX_TOKENS, eviction=eviction_from(options["eviction"])
        )
        said = answer.text.strip()
        right = said.startswith(expected) if "question" in options else expected in said
        return {
            "right": right,
            "answer": said,
            "n_prompt": len(ids),
            "prompt_s": round(answer.stats.prompt_s, 3),
            "decode_s": round(answer.stats.decode_s, 3),
            "kv_bytes": answer.stats.kv_bytes,
        }

    def tables(self, rows: Sequence[Row]) -> list[Table]:
        """One for each source of prompts and setting: policies down, budgets across."""
        tables = []
        for source, lines in _settings(rows):
            own = [row for line in lines.values() for row in line]
            budgets = [budget for budget in budgets_of(own) if budget != "-"]
            n_prompts = len({_prompt(row) for row in own})
            full = {_prompt(row): row for row in own if _is_full(row)}
            told = f"; with the full cache {_percent(_right(full.values()), n_prompts)}"
            table = Table(
                title=f"answers right: {source}",
                header=["policy", *budgets, "per length"],
                note=f"Share of {n_prompts} prompts [95 % interval]{told if full else ''}. "
                f"The last column is that of budget {(budgets or ['-'])[-1]}.",
            )
            for name, line in lines.items():
                cells = [_cell(_at_budget(line, budget), n_prompts, full) for budget in budgets]
                each = _at_budget(line, budgets[-1] if budgets else "-")
                by_length = (
                    f"{length}: {np.mean(_right(r for r in each if _length(r) == length)):.0%}"
                    for length in sorted({_length(r) for r in each})
                )
                table.rows.append([name, *cells, ", ".join(by_length)])
            tables.append(table)
        return tables

    def figures(self, rows: Sequence[Row]) -> list[Any]:
        """Draw a map of depth and length for each eviction."""
        settings = _settings([row for row in rows if "length" in row["options"]])
        drawn = []
        for source, lines in settings:
            for name, line in lines.items():
                for budget in budgets_of(line):
                    title = name if budget == "-" else f"{name}, budget {budget}"
                    if len(settings) > 1:
                        title += f": {source}"
                    drawn.append(_map([r for r in line if budget_text(r) == budget], title))
        return drawn


def _settings(rows: Sequence[Row]) -> list[tuple[str, dict[str, list[Row]]]]:
    return grouped_lines(rows, over=["question", "length", "depth", "seed"], file="text")


def _map(rows: Sequence[Row], title: str) -> Any:
    lengths = sorted({row["options"]["length"] for row in rows})
    depths = sorted({row["options"]["depth"] for row in rows})
    values = np.full((len(depths), len(lengths)), np.nan)
    for i, depth in enumerate(depths):
        for j, length in enumerate(lengths):
            right = _right(r for r in rows if _at(r) == (length, depth))
            values[i, j] = np.mean(right) if right else np.nan
    return _figures.heat_map(
        values,
        title=title,
        x="prompt (tokens)",
        y="depth of the fact",
        columns=[str(length) for length in lengths],
        rows=[f"{depth:g} %" for depth in depths],
    )


def _check_questions(arguments: argparse.Namespace) -> int:
    """Refuse questions that the full cache cannot hold, before any is asked; return how many."""
    asked, engine = _questions(arguments.questions), open_engine(arguments)
    for number, question in enumerate(asked):
        n_tokens = len(engine.tokenize(question["prompt"]))
        what = f"{arguments.questions}, question {number}"
        check_fits(engine, n_tokens, what, n_answer=MAX_TOKENS)
    return len(asked)


def _lengths(arguments: argparse.Namespace) -> list[int]:
    """List the lengths asked for, or the default ones that fit into the model's context.

    Raises
    ------
    OptionError
        Too short for the question or too long for the full cache and its answer.
    """
    engine = open_engine(arguments)
    most = engine.info.n_ctx - MAX_TOKENS
    if arguments.length is None:
        fitting = [length for length in LENGTHS if length <= most] or [most]
        left = ", ".join(str(length) for length in LENGTHS if length > most)
        if left and not arguments.quiet:
            print(
                f"a2sf-eval: lengths {', '.join(map(str, fitting))}, without {left}: the model's "
                f"context is {engine.info.n_ctx} tokens",
                file=sys.stderr,
            )
        lengths = fitting
    else:
        lengths = numbers(arguments.length, "length")
    least = max(least_length(engine.tokenizer, seed) for seed in range(arguments.trials))
    if min(lengths) < least:
        raise OptionError(f"length: at least {least} tokens expected, found {min(lengths)}")
    check_fits(engine, max(lengths), "length", n_answer=MAX_TOKENS)
    return lengths


def _grid(arguments: argparse.Namespace) -> list[dict[str, Json]]:
    depths = numbers(arguments.depth, "depth", float)
    if not all(0 <= depth <= 100 for depth in depths):
        raise OptionError(f"depth: 0 to 100 per cent expected, found {arguments.depth}")
    if arguments.trials < 1:
        raise OptionError(f"trials: at least 1 expected, found {arguments.trials}")
    lengths = _lengths(arguments)
    if arguments.file is not None:
        next(sentences_of(read_text(arguments.file), 0))  # one without any, before any work
    return [
        {"length": length, "depth": depth, "seed": seed}
        for length in lengths
        for depth in depths
        for seed in range(arguments.trials)
    ]


def _questions(path: str) -> list[dict[str, str]]:
    listed = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            asked = {name: item[name] for name in ("prompt", "answer")}
            # Every text begins with an empty one.
            if not all(isinstance(text, str) and text.strip() for text in asked.values()):
                raise TypeError
            listed.append(asked)
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f'{path}:{number}: {{"prompt": ..., "answer": ...}} expected, found {line[:60]!r}'
            ) from error
    if not listed:
        raise OptionError(f"{path}: at least 1 question expected, found 0")
    return listed


def _prompt(row: Row) -> tuple[Json, ...]:
    return tuple(row["options"].get(name) for name in ("question", "length", "depth", "seed"))


def _is_full(row: Row) -> bool:
    return bool(row["options"]["eviction"]["policy"] == "full")


def _at_budget(rows: Iterable[Row], budget: str) -> list[Row]:
    """Rows of a column; the full cache is in all of them."""
    return [row for row in rows if budget_text(row) in (budget, "-")]


def _length(row: Row) -> int:
    """Tokens asked for, or of a question to the next thousand."""
    return int(row["options"].get("length", -(-row["result"]["n_prompt"] // 1000) * 1000))


def _at(row: Row) -> tuple[int, float]:
    return row["options"]["length"], row["options"]["depth"]


def _right(rows: Iterable[Row]) -> list[float]:
    return [float(row["result"]["right"]) for row in rows]


def _cell(rows: Sequence[Row], n_prompts: int, full: dict[tuple[Json, ...], Row]) -> str:
    """Of fewer prompts than others, with what the full cache finds of the same."""
    text = _percent(_right(rows), n_prompts)
    same = _right(full[_prompt(row)] for row in rows if _prompt(row) in full)
    if len(rows) in (0, n_prompts) or len(same) < len(rows):
        return text
    return f"{text[:-1]}, full cache {np.mean(same):.0%})"


def _percent(right: list[float], n_prompts: int) -> str:
    if not right:
        return "-"
    mean, low, high = share_right(right)
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]{partly(len(right), n_prompts, 'prompts')}"
