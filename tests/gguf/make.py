#!/usr/bin/env python3
"""Makes cases/NAME.json: what llama.cpp's convert_hf_to_gguf.py writes for every case of suite.py.

usage: ORACLE/venv/bin/python tests/gguf/make.py [--llama SOURCE] [--case NAME ...] [--keep DIR]

ORACLE is the virtual environment of tests/golden/make.py: torch, transformers 5, sentencepiece. SOURCE is llama.cpp's
source tree, by default what tools/fetch-llama.sh prints. With --case only those cases are made again. --keep DIR leaves
the model folders and the converter's own files in DIR, to look at when a case fails.

Nothing here is random: a second run changes no byte.
"""
import argparse, contextlib, io, json, logging, os, runpy, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import check
import models
import reader
import suite


class Converter:
    def __init__(self, source):
        self.source = source
        sys.path[:0] = [os.path.join(source, "gguf-py"), source]
        import conversion.base, gguf, tokenizers, torch, transformers
        logging.disable(logging.ERROR)
        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(1)
        self.text_model = conversion.base.TextModel
        self.own_pre = self.text_model.get_vocab_base_pre
        with open(os.path.join(ROOT, "tools/fetch-llama.sh"), encoding="utf-8") as f:
            commit = next(word.removeprefix("commit=") for word in f.read().split() if word.startswith("commit="))
        self.provenance = {"llama.cpp": commit, "transformers": transformers.__version__,
                           "tokenizers": tokenizers.__version__, "torch": torch.__version__.partition("+")[0]}

    def run(self, folder, out, outtype, pre):
        """One run of the real program, inside this process. Unknown vocabularies are given the name `pre`."""
        def named(model, tokenizer):
            try:
                return self.own_pre(model, tokenizer)
            except NotImplementedError:
                return pre
        self.text_model.get_vocab_base_pre = named
        argv, sys.argv = sys.argv, ["convert_hf_to_gguf.py", folder, "--outtype", outtype, "--outfile", out]
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                runpy.run_path(os.path.join(self.source, "convert_hf_to_gguf.py"), run_name="__main__")
        finally:
            sys.argv = argv
        return reader.File(out)


def by_type(values):
    """{type: value} of a thing that differs from type to type, {"all": value} if it does not."""
    first = next(iter(values.values()))
    return {"all": first} if all(v == first for v in values.values()) else values


def record(files):
    """`keys` and `tensors` of a case as check.py compares them; see README.md."""
    first = next(iter(files.values()))
    keys, tensors = {}, {}
    for name in sorted({k for f in files.values() for k in f.keys}):
        keys[name] = by_type({t: check.key_of(f, name) for t, f in files.items()})
    for name in sorted(first.tensors):
        row = {t: f"{f.tensors[name].type} {f.tensors[name].sha()}" for t, f in files.items()}
        tensors[name] = {"ne": first.tensors[name].ne, **by_type(row)}
    for f in files.values():
        if set(f.tensors) != set(first.tensors) or any(f.tensors[n].ne != first.tensors[n].ne for n in f.tensors):
            raise ValueError("tensors differ from type to type")
    return {"keys": keys, "tensors": tensors}


def make_case(case, converter, folder):
    pre = models.vocabulary_of(case).pre  # of the golden models, too: those that are asked for it are GPT-2's
    source = check.source_folder(case, folder, case.get("witness"))
    files = {t: converter.run(source, os.path.join(folder, f"{case['name']}.{t}.gguf"), t, pre) for t in check.TYPES}
    result = {"case": {"why": case["why"]}, **record(files)}
    if case.get("auto"):
        f = converter.run(source, os.path.join(folder, f"{case['name']}.auto.gguf"), "auto", pre)
        result["case"]["auto"] = next(t for t in check.TYPES if record({t: f}) == record({t: files[t]}))
    return result


def write_record(path, data):
    """JSON with one line a key and a tensor: short, and a diff says what changed."""
    def inner(v):
        lines = [f"  {json.dumps(k)}: {json.dumps(x, ensure_ascii=False)}" for k, x in v.items()]
        return "{\n" + ",\n".join(lines) + "\n }"
    with open(path, "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(f" {json.dumps(k)}: {inner(v)}" for k, v in data.items()) + "\n}\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--llama", metavar="SOURCE")
    ap.add_argument("--case", action="extend", nargs="+", choices=sorted(suite.BY_NAME), metavar="NAME")
    ap.add_argument("--keep", metavar="DIR")
    args = ap.parse_args()
    source = args.llama or subprocess.run([os.path.join(ROOT, "tools/fetch-llama.sh")], check=True, capture_output=True,
                                          text=True).stdout.strip()
    converter = Converter(source)
    os.makedirs(os.path.join(HERE, "cases"), exist_ok=True)
    failed = []
    for name in args.case or suite.BY_NAME:
        with tempfile.TemporaryDirectory(prefix="moerge-gguf-") as temp:
            folder = os.path.join(args.keep, name) if args.keep else temp
            os.makedirs(folder, exist_ok=True)
            try:
                result = make_case(suite.BY_NAME[name], converter, folder)
            except (Exception, SystemExit) as e:  # the others are still worth making
                failed.append(name)
                print(f"FAIL {name}: {type(e).__name__}: {e}", flush=True)
                continue
        write_record(os.path.join(HERE, "cases", f"{name}.json"), result)
        print(f"{name}: {len(result['keys'])} keys, {len(result['tensors'])} tensors", flush=True)
    write_record(os.path.join(HERE, "provenance.json"), {"made_with": converter.provenance})
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
