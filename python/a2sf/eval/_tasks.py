"""Accuracy on questions with known answers: multiple choice, and answers that are written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .._core import OptionError
from .._engine import Engine
from .._options import Eviction, fix_budget
from .._tokenizer import Tokenizer
from . import _figures
from ._answers import exact_match, rouge_l, token_f1
from ._arguments import (
    DEFAULT_POLICIES,
    add_eviction_arguments,
    budget_text,
    budgets_of,
    check_fits,
    engine_arguments,
    eviction_name,
    evictions,
    items,
    model_path,
    open_engine,
)
from ._groups import grouped_lines, partly
from ._items import TEMPLATE, Item, Layout, read_items, write_out
from ._jobs import Job, Json, eviction_from, file_hash
from ._kinds import Table
from ._likelihood import (
    Request,
    Score,
    Writing,
    encode_context,
    encode_pair,
    log_likelihoods,
    write_answers,
)
from ._results import Row
from ._statistics import bootstrap_mean, share_right

BLOCK = 16  # items of a job
MEASURES = {
    "acc": "accuracy",
    "acc_norm": "accuracy, log-likelihood per character",
    "exact_match": "exact match",
    "f1": "token F1",
    "rouge_l": "ROUGE-L",
}
SHARES = ("acc", "acc_norm", "exact_match")  # an item has 0 or 1
LOCAL = "local"  # the paper's name for a window of the newest tokens
PAPER_POLICIES = f"full,{LOCAL},h2o,a2sf-paper"


class Tasks:
    """`a2sf-eval tasks`: a job is a block of items under one eviction."""

    name = "tasks"
    summary = "accuracy on your questions: multiple choice, exact match, F1, ROUGE-L"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add items and how they are asked."""
        group = parser.add_argument_group(
            "Questions", "JSON lines, see docs/evaluation.md. \\n in a text here is a new line."
        )
        add = group.add_argument
        add("-f", "--file", action="append", required=True, metavar="FILE",
            help="items; may be given several times")  # fmt: skip
        add("--limit", type=int, metavar="N", help="only the first N items of each file")
        add("--shots", type=int, default=0, metavar="K",
            help="solved examples before each item (%(default)s)")  # fmt: skip
        add("--shots-file", metavar="FILE", help="where they come from (the items themselves, "
            "never the one that is asked)")  # fmt: skip
        add("--seed", type=int, default=0, metavar="N", help="which examples (%(default)s)")
        add("--description", default="", metavar="TEXT", help="before everything else")
        add("--template", default=TEMPLATE.replace("\n", "\\n"), metavar="TEXT",
            help="how an item with a question is asked (%(default)s)")  # fmt: skip
        add("--delimiter", default=" ", metavar="TEXT",
            help="between a context and a choice (a space)")  # fmt: skip
        add("--protocol", choices=("own", "paper"), default="own",
            help="paper: that of A2SF (arXiv 2407.20485), where a share is one of context and "
            f"continuation, and --policy {PAPER_POLICIES}; own: a share is one of the context, "
            f"and --policy {DEFAULT_POLICIES}. The policy {LOCAL} is streaming without sinks "
            "(%(default)s)")  # fmt: skip
        add_eviction_arguments(parser, policy=None, budget="20%", prefill="token")

    def jobs(self, arguments: argparse.Namespace) -> list[Job]:
        """One for each file, block of items and eviction; the full cache is always one of them."""
        if arguments.protocol == "paper" and arguments.prefill != "token":
            raise OptionError(
                f"prefill: token expected with the paper's protocol, found {arguments.prefill}"
            )
        if arguments.limit is not None and arguments.limit < 1:
            raise OptionError(f"limit: at least 1 expected, found {arguments.limit}")
        for path in (*arguments.file, arguments.shots_file):
            if path is not None and not os.path.isfile(path):
                raise OptionError(f"file: items expected, found no file {path}")
        listed, layout = _grid(arguments), _layout(arguments)
        engine = open_engine(arguments)
        jobs = []
        for path in dict.fromkeys(arguments.file):
            files = {"items": os.path.abspath(path)}
            if arguments.shots_file is not None and layout.shots:
                files["examples"] = os.path.abspath(arguments.shots_file)
            written = _written(files, layout)[: arguments.limit]
            _check(engine, path, written, listed, arguments.protocol)
            for eviction in listed:
                for first in range(0, len(written), BLOCK):
                    options: dict[str, Json] = {
                        **{name: file_hash(file) for name, file in files.items()},
                        "layout": asdict(layout),
                        "protocol": arguments.protocol,
                        "first": first,
                        "n": min(BLOCK, len(written) - first),
                        "eviction": eviction,
                    }
                    jobs.append(
                        Job(
                            kind=self.name,
                            model=model_path(arguments),
                            options=options,
                            files=files,
                            engine=engine_arguments(arguments),
                        )
                    )
        return jobs

    def run(self, engine: Engine, job: Job) -> dict[str, Json]:
        """Ask a block of items.

        Returns
        -------
        dict
            For each item: scores, its measures (of `MEASURES`) by name; answers, the index of the
            likeliest choice or what was written; budgets, the tokens each continuation had (null
            for no limit); log_probs, those of the choices.
        """
        options = job.options
        written = _written(job.files, Layout(**options["layout"]))
        block = written[options["first"] : options["first"] + options["n"]]
        eviction, protocol = eviction_from(options["eviction"]), options["protocol"]
        asked = [requests_of(engine.tokenizer, item, eviction, protocol) for item in block]
        flat = [one for of_item in asked for one in of_item if isinstance(one, Request)]
        choices = iter(log_likelihoods(engine, flat))
        writings = [one for of_item in asked for one in of_item if isinstance(one, Writing)]
        texts = iter(write_answers(engine, writings))
        result: dict[str, Json] = {"scores": [], "answers": [], "budgets": [], "log_probs": []}
        for item, of_item in zip(block, asked, strict=True):
            found = [next(choices) for _ in item.continuations]
            answer = best(found) if found else next(texts)
            result["answers"].append(answer)
            result["scores"].append(_measures(item, found, answer))
            result["budgets"].append([one.eviction.budget for one in of_item])
            result["log_probs"].append([round(score.log_prob, 6) for score in found])
        return result

    def tables(self, rows: Sequence[Row]) -> list[Table]:
        """Two for each file, setting and measure: means, and differences to the full cache."""
        tables = []
        for title, measure, cells in _settings(rows):
            budgets = cells.budgets or ["-"]
            n_items = len(cells.numbers)
            means = Table(
                title=f"{MEASURES[measure]}: {title}",
                header=["policy", *budgets],
                note=f"Mean [95 % interval over items]; {n_items} items.",
            )
            lost = Table(
                title=f"{MEASURES[measure]}, difference to the full cache: {title}",
                header=["policy", *budgets],
                note="Of the same items, mean [95 % bootstrap interval].",
            )
            for name in cells.names:
                scores = [cells.scores(name, budget) for budget in budgets]
                means.rows.append(
                    [name, *(_cell(list(s.values()), measure, n_items) for s in scores)]
                )
                if not cells.is_full(name):
                    found = [_differences(one, cells.full) for one in scores]
                    lost.rows.append([name, *(_cell(values, None, n_items) for values in found)])
            tables += [means, lost] if cells.full and lost.rows else [means]
        return tables

    def figures(self, rows: Sequence[Row]) -> list[Any]:
        """One for each file, setting and measure: a bar for each policy and budget."""
        drawn = []
        for title, measure, cells in _settings(rows):
            full = list(cells.full.values())
            series = {}
            for name in cells.names:
                if not cells.is_full(name):
                    found = [list(cells.scores(name, budget).values()) for budget in cells.budgets]
                    series[name] = [
                        _interval(scores, measure) if scores else None for scores in found
                    ]
            drawn.append(
                _figures.bars(
                    series,
                    title=f"{MEASURES[measure]}: {title}",
                    groups=cells.budgets,
                    y=MEASURES[measure],
                    line=sum(full) / len(full) if full else None,
                )
            )
        return drawn


def requests_of(
    tokenizer: Tokenizer, item: Item, eviction: Eviction, protocol: str
) -> list[Request] | list[Writing]:
    """List what the model is asked for an item, with budgets in tokens.

    The paper's protocol takes a share of everything that a request reads, context and continuation
    (for an answer to be written, `max_tokens` of it), as the authors' code does; the other one a
    share of the context.
    """
    paper = protocol == "paper"
    if not item.continuations:
        context = encode_context(tokenizer, item.contexts[0])
        kept = fix_budget(eviction, len(context) + paper * item.max_tokens)
        return [
            Writing(context=context, eviction=kept, max_tokens=item.max_tokens, stop=item.until)
        ]
    requests = []
    for text, choice in zip(item.contexts, item.continuations, strict=True):
        context, continuation = encode_pair(tokenizer, text, choice)
        kept = fix_budget(eviction, len(context) + paper * len(continuation))
        requests.append(Request(context=context, continuation=continuation, eviction=kept))
    return requests


def best(scores: Sequence[Score]) -> int:
    """Return the likeliest choice; of equal ones the first."""
    return max(range(len(scores)), key=lambda i: scores[i].log_prob)


def _measures(item: Item, found: Sequence[Score], answer: int | str) -> dict[str, float]:
    """Score one answer; acc_norm is lm-evaluation-harness's, which divides by characters."""
    if isinstance(answer, str):
        return {
            "exact_match": exact_match(answer, item.answers),
            "f1": token_f1(answer, item.answers),
            "rouge_l": rouge_l(answer, item.answers),
        }
    per_character = [
        Score(log_prob=score.log_prob / len(choice), greedy=score.greedy)
        for score, choice in zip(found, item.choices, strict=True)
    ]
    return {
        "acc": float(answer == item.answer),
        "acc_norm": float(best(per_character) == item.answer),
    }


def _grid(arguments: argparse.Namespace) -> list[dict[str, Json]]:
    """Evictions, the full cache and `LOCAL` among them."""
    default = PAPER_POLICIES if arguments.protocol == "paper" else DEFAULT_POLICIES
    names = items(default if arguments.policy is None else arguments.policy, "policy")
    if names != ["all"]:
        names = list(dict.fromkeys(["full", *names]))
    known = dict.fromkeys("streaming" if name == LOCAL else name for name in names)
    listed = evictions(argparse.Namespace(**{**vars(arguments), "policy": ",".join(known)}))
    if names == ["all"]:
        return listed
    chosen: list[dict[str, Json]] = []
    for name in names:
        of_name = [options for options in listed if options["policy"] == name]
        if name == LOCAL:
            streaming = (options for options in listed if options["policy"] == "streaming")
            of_name = [{**options, "sinks": 0} for options in streaming]
        chosen += [options for options in of_name if options not in chosen]
    return chosen


def _layout(arguments: argparse.Namespace) -> Layout:
    return Layout(
        description=_lines(arguments.description),
        template=_lines(arguments.template),
        delimiter=_lines(arguments.delimiter),
        shots=arguments.shots,
        seed=arguments.seed if arguments.shots else 0,
    )


def _lines(text: str) -> str:
    return text.replace("\\n", "\n")


def _written(files: Mapping[str, str], layout: Layout) -> list[Item]:
    asked = read_items(files["items"], layout.template)
    path = files.get("examples")
    return write_out(asked, None if path is None else read_items(path, layout.template), layout)


def _check(
    engine: Engine,
    path: str,
    written: Sequence[Item],
    listed: Sequence[dict[str, Json]],
    protocol: str,
) -> None:
    """Refuse items that the model cannot be asked, before any is."""
    parsed = [eviction_from(options) for options in listed]
    for number, item in enumerate(written):
        for one in requests_of(engine.tokenizer, item, Eviction(policy="full"), protocol):
            more = len(one.continuation) if isinstance(one, Request) else one.max_tokens
            check_fits(engine, len(one.context) + more, f"{path}, item {number}")
            for eviction in parsed:
                try:
                    fix_budget(eviction, len(one.context) + (protocol == "paper") * more)
                except OptionError as error:
                    raise OptionError(f"{path}, item {number}: {error}") from error


class _Cells:
    """Scores of one measure in one setting, by the name of the eviction."""

    def __init__(self, lines: Mapping[str, Sequence[Row]], measure: str) -> None:
        self._lines = lines
        self._measure = measure
        self.names = list(lines)
        self.budgets = [b for b in budgets_of(r for own in lines.values() for r in own) if b != "-"]
        self.full: dict[int, float] = {}  # item to score
        for name in filter(self.is_full, lines):
            self.full |= self.scores(name, "-")
        self.numbers = {
            number
            for name in lines
            for b in ("-", *self.budgets)
            for number in self.scores(name, b)
        }

    def is_full(self, name: str) -> bool:
        return bool(self._lines[name][0]["options"]["eviction"]["policy"] == "full")

    def scores(self, name: str, budget: str) -> dict[int, float]:
        """Item to score; the full cache has one column for all budgets."""
        return {
            row["options"]["first"] + i: scores[self._measure]
            for row in self._lines[name]
            if self.is_full(name) or budget_text(row) == budget
            for i, scores in enumerate(row["result"]["scores"])
            if self._measure in scores
        }


def _settings(rows: Sequence[Row]) -> Iterator[tuple[str, str, _Cells]]:
    """Give title, measure and scores of all that is shown together."""
    for name, lines in grouped_lines(
        rows, over=["first", "n"], file="items", said=["shots", "protocol"], name=_name
    ):
        group = [row for own in lines.values() for row in own]
        options = group[0]["options"]
        title = f"{name}, {options['layout']['shots']}-shot"
        if options["protocol"] == "paper":
            title += ", the paper's protocol"
        there = {name for row in group for scores in row["result"]["scores"] for name in scores}
        for measure in MEASURES:
            if measure in there:
                yield title, measure, _Cells(lines, measure)


def _name(options: dict[str, Json]) -> str:
    if options["policy"] == "streaming" and options.get("sinks") == 0:
        options = {**options, "policy": LOCAL}
        del options["sinks"]
    return eviction_name(options)


def _differences(scores: Mapping[int, float], full: Mapping[int, float]) -> list[float]:
    return [score - full[number] for number, score in scores.items() if number in full]


def _interval(scores: Sequence[float], measure: str) -> tuple[float, float, float]:
    return share_right(scores) if measure in SHARES else bootstrap_mean(scores)


def _cell(values: Sequence[float], measure: str | None, n_items: int) -> str:
    """Write scores of a measure, or differences (None), as a cell."""
    if not values:
        return "-"
    sign = "+" if measure is None else ""
    mean, low, high = bootstrap_mean(values) if measure is None else _interval(values, measure)
    less = partly(len(values), n_items, "items")
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]{less}"
