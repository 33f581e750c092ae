#!/usr/bin/env python3
"""Makes what check_merges.py expects: runs the real mergekit 0.1.5 on every case of merge_cases.py.

usage: PYTHON_WITH_MERGEKIT tests/golden/make_merges.py [--case NAME ...] [--sample N]

Needs mergekit 0.1.5 and torch. Writes merges/FILE.json, FILE being the first part of a case's name:
  provenance    versions
  cases/NAME    config_sha256 (of the YAML), models_sha256; "refused": what mergekit said; else
                "config": its config.json; "tensors": dtype, shape, values (base64) by name; "files": what it copied from the base;
                "tokenizer": what it made, by meaning. A case that draws has, instead of values, "sample": see Sample below.

What is left to chance in mergekit is settled, and nothing else changed: its sorts are made stable (tests/merge/stable_sorts.py). It keeps
the models that a configuration names in a set, so that whose config.json and tokenizer count where there is no base depends on Python's
hash seed; here they are in the configuration's order. And it adds tokens to a vocabulary in the order of a hash table; here by their id.
A second run changes no byte, unless PyTorch computes otherwise.
"""
import argparse, base64, contextlib, hashlib, importlib.metadata, json, logging, os, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "merge")]
os.environ["HF_HUB_OFFLINE"] = "1"

import stable_sorts  # noqa: F401 (before mergekit)
import click.testing
import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.scripts import multimerge, run_yaml

import merge_cases
import merge_models
from merge_checks import TOKENIZER_FILES, Sample, read_config, read_tokenizer
from tiny_models import read_checkpoint

FOLDER = os.path.join(HERE, "merges")
VERSION = "0.1.5"
RUNS = 200


def in_order(config):
    """The models that a configuration names, its base first. Planning turns all that it merges into modules."""
    found = [config.base_model] if config.base_model else []
    for part in (config, *(config.modules or {}).values()):
        found += [m.model for m in part.models or []]
        found += [source.model for s in part.slices or [] for source in s.sources]
    return list(dict.fromkeys(found))


def by_id(vocabulary):
    return dict(sorted(vocabulary.items(), key=lambda item: item[1]))


MergeConfiguration.referenced_models = in_order
Tokenizer = transformers.PreTrainedTokenizerFast
get_vocab, added_tokens = Tokenizer.get_vocab, Tokenizer.added_tokens_decoder.fget
Tokenizer.get_vocab = lambda tokenizer: by_id(get_vocab(tokenizer))
Tokenizer.added_tokens_decoder = property(lambda tokenizer: dict(sorted(added_tokens(tokenizer).items())))


def run_command(case, folder, out):
    """None, or what mergekit ended with. In `folder` are the models and merge.yaml."""
    LoaderCache.loaders.clear()  # of the case before, whose models had the same names
    several = "\n---\n" in case.yaml
    command = multimerge.main if several else run_yaml.main
    words = ["merge.yaml", "--out-path", out, "-I", os.path.join(folder, "between")] if several else ["merge.yaml", out]
    with contextlib.chdir(folder):
        result = click.testing.CliRunner().invoke(command, [*words, *case.flags])
    if result.exit_code == 0:
        return None
    return f"{type(result.exception).__name__}: {result.exception}".split("\n")[0]


@contextlib.contextmanager
def repeated(times, in_float64=False):
    """{tensor: what `times` draws made of it}, filled by the merges of this context; they write the first one."""
    execute, drawn = ExecuteMergeMethodTask.execute, {}

    def execute_repeatedly(task, tensors, **named):
        given = {model: t.double() if in_float64 else t for model, t in tensors.items()}
        dtype = next(iter(tensors.values())).dtype
        results = [execute(task, given, **named) for _ in range(times)]
        drawn[task.output_weight.name] = [result.to(dtype) for result in results] if in_float64 else results
        return drawn[task.output_weight.name][0]

    ExecuteMergeMethodTask.execute = execute_repeatedly
    try:
        yield drawn
    finally:
        ExecuteMergeMethodTask.execute = execute


def record_sample(drawn, base, runs):
    """What mergekit draws, and for the log how a second sample of its own would be judged."""
    samples = [Sample(base.tensors), Sample(base.tensors)]
    for i in range(runs + Sample.CHECKED):
        samples[i >= runs].add({name: results[i].float().flatten().tolist() for name, results in drawn.items()})
    stored = samples[0].stored()
    problems, note = samples[1].compare(stored)
    print(f"    {note} {problems or ''}", flush=True)
    return stored


def record(case, out, models, drawn, runs):
    tensors = read_checkpoint(out)
    result = {"config": read_config(out)}
    if case.draws:
        result["tensors"] = {name: {"dtype": t.dtype, "shape": t.shape} for name, t in tensors.items()}
        result["sample"] = record_sample(drawn, models["base"], runs)
    else:
        result["tensors"] = {name: {"dtype": t.dtype, "shape": t.shape, "data": base64.b64encode(t.data).decode()}
                             for name, t in sorted(tensors.items())}
    if case.tokens:
        result["tokenizer"] = tokenizer = read_tokenizer(out)
        if case.template_has:  # the text is mergekit's, and ours is another one
            assert case.template_has in tokenizer.pop("chat_template")
    else:
        result["files"] = {name: hashlib.sha256(content).hexdigest() for name in TOKENIZER_FILES
                           if (content := read_if_there(os.path.join(out, name))) is not None}
    return result


def read_if_there(path):
    if os.path.exists(path):
        with open(path, "rb") as f:
            return f.read()
    return None


def make_case(name, case, runs):
    with tempfile.TemporaryDirectory(prefix="moerge-merges-") as folder:
        models, models_sha256 = merge_models.write_set(case.models, folder)
        with open(os.path.join(folder, "merge.yaml"), "w", encoding="utf-8") as f:
            f.write(case.yaml)
        result = {"config_sha256": hashlib.sha256(case.yaml.encode()).hexdigest(), "models_sha256": models_sha256}
        out = os.path.join(folder, "out")
        torch.manual_seed(0)
        with repeated(runs + Sample.CHECKED if case.draws else 1, case.in_float64) as drawn:
            error = run_command(case, folder, out)
        print(f"{name}: {error or 'merged'}", flush=True)
        if bool(error) != case.refused:
            sys.exit(f"{name}: refused={case.refused} in merge_cases.py, and mergekit: {error}")
        if error:
            return {**result, "refused": error.replace(folder, "FOLDER")}
        return {**result, **record(case, out, models, drawn, runs)}


def text_of(value, indent=""):
    """JSON; objects without objects in them take one line: a tensor, a config.json."""
    if not isinstance(value, dict) or not any(isinstance(v, dict) for v in value.values()):
        return json.dumps(value, ensure_ascii=False)
    rows = [f"{indent} {json.dumps(k)}: {text_of(v, indent + ' ')}" for k, v in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--case", action="append", help="make only this case; may be given again")
    ap.add_argument("--sample", type=int, default=RUNS, help="how often a method draws that does")
    args = ap.parse_args()
    if (found := importlib.metadata.version("mergekit")) != VERSION:
        sys.exit(f"found mergekit {found} where {VERSION} was expected")
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    provenance = {"mergekit": VERSION, "torch": torch.__version__, "transformers": transformers.__version__, "made_by": "make_merges.py"}
    os.makedirs(FOLDER, exist_ok=True)
    for file in dict.fromkeys(map(merge_cases.file_of, args.case or merge_cases.CASES)):
        path = os.path.join(FOLDER, f"{file}.json")
        wanted = [name for name in merge_cases.CASES if merge_cases.file_of(name) == file]
        said = json.loads(read_if_there(path) or "{}").get("cases", {})
        cases = {name: said[name] if args.case and name not in args.case and name in said else
                 make_case(name, merge_cases.CASES[name], args.sample) for name in wanted}
        with open(path, "w", encoding="utf-8") as f:
            f.write(text_of({"provenance": provenance, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
