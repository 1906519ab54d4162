"""The model `a2sf` of lm-evaluation-harness, on tasks that need no network."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import sys

import a2sf
import numpy as np
import pytest
from a2sf.eval import read_rows
from a2sf.eval.__main__ import main
from eval_items import choice_items, save, written_items

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
if not os.environ.get("CI"):  # there it has to be installed
    pytest.importorskip("lm_eval")

CHOICE = """
task: a2sf_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITTEN = """
task: a2sf_written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["."], max_gen_toks: 24}}
filter_list:
  - name: trimmed
    filter: [{{function: remove_whitespace}}, {{function: take_first}}]
metric_list:
  - metric: exact_match
    ignore_case: true
    ignore_punctuation: true
"""
N_ITEMS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two task files and their items."""
    path = tmp_path_factory.mktemp("tasks")
    for name, text, items in (
        ("choice", CHOICE, choice_items(N_ITEMS)),
        ("written", WRITTEN, written_items(N_ITEMS)),
    ):
        data = save(path / f"{name}.jsonl", items)
        (path / f"{name}.yaml").write_text(text.format(data=data, cache=path / "cache"))
    return path


@pytest.fixture(scope="module")
def harness():
    importlib.import_module("a2sf.lm_eval")  # which makes the model known
    return importlib.import_module("lm_eval")


class Asked:
    """What the harness hands to a model, as much of it as is read."""

    def __init__(self, *args):
        self.args = args


@pytest.mark.parametrize("protocol", ["own", "paper"])
def test_scores_are_those_of_a2sf_eval(harness, folder, tmp_path, monkeypatch, protocol):
    def refuse(_, address):
        raise AssertionError(f"no connection expected, found one to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    from lm_eval.tasks import TaskManager

    policy = {"policy": "a2sf", "sinks": 2, "budget": "60%", "prefill": "token"}
    found = harness.simple_evaluate(
        model="a2sf",
        model_args={**policy, "protocol": protocol},
        tasks=["a2sf_choice", "a2sf_written"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    output = tmp_path / "out.jsonl"
    for name in ("choice", "written"):
        command = ["tasks", "-q", "-f", str(folder / f"{name}.jsonl"), "-o", str(output)]
        command += ["--policy", "a2sf", "--sinks", "2", "--budget", "60%", "--protocol", protocol]
        assert main(command) == 0
    choice, written = (
        row["result"]
        for row in read_rows([output])
        if row["options"]["eviction"]["policy"] == "a2sf"
    )
    for measure in ("acc", "acc_norm"):
        mean = np.mean([scores[measure] for scores in choice["scores"]])
        assert found["results"]["a2sf_choice"][f"{measure},none"] == pytest.approx(mean)
    for sample in found["samples"]["a2sf_choice"]:
        log_probs = [float(reply[0][0]) for reply in sample["resps"]]
        assert choice["log_probs"][sample["doc_id"]] == pytest.approx(log_probs, abs=1e-5)
    for sample in found["samples"]["a2sf_written"]:
        assert written["answers"][sample["doc_id"]] == sample["resps"][0][0]
    mean = np.mean([scores["exact_match"] for scores in written["scores"]])
    assert found["results"]["a2sf_written"]["exact_match,trimmed"] == pytest.approx(mean)
    assert mean > 0  # so that it is more than two zeros that agree


def test_the_models_of_the_harness_stay_known(harness):
    from lm_eval.api.registry import get_model, model_registry

    assert get_model("dummy")
    assert {"a2sf", "hf"} <= set(model_registry.keys())


def test_the_harness_command_knows_the_model(folder, tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "a2sf.lm_eval", "run", "--model", "a2sf",
            "--model_args", "policy=streaming,budget=64,prefill=token", "--tasks", "a2sf_choice",
            "--include_path", str(folder), "--limit", "2", "--output_path", str(tmp_path / "out"),
        ],
        capture_output=True, text=True, timeout=300, env={**os.environ, **OFFLINE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out").rglob("*.json")
    assert "acc_norm,none" in json.loads(written.read_text())["results"]["a2sf_choice"]


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize(
    ("given", "message", "status"),
    [
        ("modle=x", "model_args: of model, policy, .* expected, found modle", 2),
        ("policy=h3o", "policy: one of", 2),
        ("model=missing.gguf", "missing.gguf: cannot open", 1),
    ],
)
def test_errors_of_the_command_are_one_line(folder, given, message, status):
    done = subprocess.run(
        [
            sys.executable, "-m", "a2sf.lm_eval", "run", "--model", "a2sf", "--model_args", given,
            "--tasks", "a2sf_choice", "--include_path", str(folder),
        ],
        capture_output=True, text=True, timeout=300, env={**os.environ, **OFFLINE}, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert re.search(f"^a2sf-lm-eval: {message}", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("harness")
class TestModel:
    @pytest.fixture
    def model(self):
        from a2sf.lm_eval import A2sfLM

        return A2sfLM(threads=1)

    def test_whole_texts_are_scored_from_their_first_token(self, model):
        text = choice_items(1)[0]["context"]
        engine = a2sf.Engine()
        ids = engine.tokenize(text)
        assert ids[0] == engine.tokenizer.bos
        (found,) = model.loglikelihood_rolling([Asked(text)], disable_tqdm=True)
        assert found == pytest.approx(float(engine.score(ids).sum()), rel=1e-4)

    def test_long_texts_are_scored_in_windows(self):
        from a2sf.lm_eval import A2sfLM

        text = choice_items(1)[0]["context"]
        engine = a2sf.Engine()
        ids = engine.tokenize(text)
        model = A2sfLM(max_length=41)
        first = engine.score(ids[:41]).sum()
        n_rest = (len(ids) - 1) % 40
        (found,) = model.loglikelihood_rolling([Asked(text)], disable_tqdm=True)
        middle = sum(engine.score(ids[i : i + 41]).sum() for i in range(40, len(ids) - 41, 40))
        last = engine.score(ids[-41:])[-n_rest:].sum() if n_rest else 0.0
        assert found == pytest.approx(float(first + middle + last), rel=0.02)

    def test_what_does_not_fit_loses_its_beginning(self, caplog):
        from a2sf.lm_eval import A2sfLM

        context = choice_items(1)[0]["context"]
        engine = a2sf.Engine()
        ids = engine.tokenize(context)
        model = A2sfLM(max_length=50)
        tail = engine.tokenize(f"{context} Flora")[len(ids) :]
        (found,) = model.loglikelihood([Asked(context, " Flora")], disable_tqdm=True)
        whole = [*ids[-(50 - len(tail)) :], *tail]
        assert found[0] == pytest.approx(float(engine.score(whole)[-len(tail) :].sum()), rel=0.05)
        assert "cut to its last" in caplog.text

    def test_what_a_task_asks_of_an_answer(self, model):
        prompt = choice_items(1)[0]["context"]
        engine = a2sf.Engine()
        sampling = a2sf.Sampling(temperature=2.0, top_k=20, seed=7)
        greedy = {"until": ["the "], "max_gen_toks": 9, "do_sample": False, "temperature": 2.0}
        sampled = {"max_gen_toks": 9, "do_sample": True, "temperature": 2.0, "top_k": 20, "seed": 7}
        found = model.generate_until([Asked(prompt, greedy), Asked(prompt, sampled)], True)
        assert found == [
            engine.generate(prompt, max_tokens=9, stop="the ").text,
            engine.generate(prompt, max_tokens=9, sampling=sampling).text,
        ]
        with pytest.raises(a2sf.OptionError, match=r"generation: of until.*found num_beams"):
            model.generate_until([Asked(prompt, {"num_beams": 4})], True)

    def test_chats_follow_the_model_s_template(self, model):
        said = [{"role": "user", "content": "Where is the key?"}]
        text = model.apply_chat_template(said)
        assert "Where is the key?" in text
        begun = [*said, {"role": "assistant", "content": "In the"}]
        assert model.apply_chat_template(begun, add_generation_prompt=False) == text + "In the"
        assert model.chat_template(True)
        assert model.chat_template(False) == ""
        assert model.tokenizer_name.endswith(".gguf")
        with pytest.raises(a2sf.OptionError, match="default expected"):
            model.chat_template("rag")

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            ({"pretrained": "x"}, TypeError, "unexpected keyword argument 'pretrained'"),
            ({"policy": "h3o"}, a2sf.OptionError, "policy: one of"),
            ({"budget": 4}, a2sf.OptionError, "budget"),
            ({"batch_size": 8}, a2sf.OptionError, "batch_size: 1 expected"),
            ({"max_length": 1}, a2sf.OptionError, "max_length: 2 to 2048"),
            ({"protocol": "other"}, a2sf.OptionError, "own or paper expected"),
            (
                {"policy": "a2sf", "protocol": "paper", "prefill": "chunk"},
                a2sf.OptionError,
                "prefill: token",
            ),
        ],
    )
    def test_arguments_that_make_no_sense_are_refused(self, given, error, message):
        from a2sf.lm_eval import A2sfLM

        with pytest.raises(error, match=message):
            A2sfLM(**given)
