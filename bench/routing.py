#!/usr/bin/env python3
"""Compares gate modes by what the mixture is worth: perplexity on held-out text of every expert's domain, and how often the
routers choose the expert whose text it is. Prints a Markdown table.

usage: routing.py --data FOLDER [--models examples/family] [--merge YAML ...] [--moerge BINARY] [--max-tokens 10240] [--window 256]

FOLDER/DOMAIN/train.jsonl (or .txt) is what routers may be made from; FOLDER/DOMAIN/heldout.txt (or .jsonl) only measures, cut into
windows from one end to the other (of .jsonl: row by row). MODELS has a folder `base` and one for each DOMAIN that is an expert. WORDS below are the article's five words a
domain; other domains take them from FOLDER/DOMAIN/words.txt, one a line, or the rows that need words are left out. Sentences are
taken from the training text: the same ones at every run. Everything runs through `moerge route`, which builds nothing.

  dense base, dense expert   the models alone (as mixtures of themselves)
  merge                      likewise, the dense model that `moerge merge YAML` makes
  perfect routing            every text through its own expert's FFNs on the base's attention
  gap closed                 of the mean log-perplexity between gate_mode hidden on words and perfect routing
"""
import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time

WORDS = {"code": ["code", "python", "javascript", "programming", "algorithm"],
         "maths": ["reason", "math", "mathematics", "solve", "count"],
         "prose": ["storywriting", "write", "scene", "story", "character"],
         "dialogue": ["chat", "assistant", "tell me", "explain", "I want"]}
SENTENCES = 16


class Bench:
    def __init__(self, a, folder):
        self.a, self.folder = a, pathlib.Path(folder)
        self.models, self.data = a.models.resolve(), a.data.resolve()
        self.domains = [d.name for d in sorted(self.data.iterdir())
                        if find(d, "train") and find(d, "heldout") and (self.models / d.name).is_dir()]
        if len(self.domains) < 2:
            sys.exit(f"{a.data}: expected two folders or more with train.jsonl and heldout.jsonl that are models of {a.models}")
        self.words = {d: words_of(self.data / d) for d in self.domains}
        self.sentences = {d: sentences_of(self.data / d) for d in self.domains}

    def route(self, base, experts, *, per_token=2, mode="random", texts=None, label=True, **keys):
        """Perplexity by domain, and how often the first choice is right. `keys`: of each expert, by domain."""
        lines = [f"base_model: {json.dumps(str(self.models / base))}", f"gate_mode: {mode}", f"experts_per_token: {per_token}",
                 "experts:"]
        for expert in experts:
            lines.append(f"  - source_model: {json.dumps(str(self.models / expert))}")
            lines += [f"    {key}: {json.dumps(values[expert])}" for key, values in keys.items()]
        yaml = self.folder / "moe.yaml"
        yaml.write_text("\n".join(lines) + "\n")
        command = [self.a.moerge, "route", yaml, "--json", "--max-tokens", str(self.a.max_tokens), "--window", str(self.a.window),
                   "--i-understand-this-is-not-useful-without-training", *self.a.flag]
        for domain in texts or self.domains:
            file = find(self.data / domain, "heldout")
            command += ["--text", f"{domain}={file}" if label else str(file)]
        start = time.monotonic()
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{' '.join(map(str, command))}\n{run.stderr}")
        report = json.loads(run.stdout)
        print(f"{mode} {', '.join(keys)}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        return [text["perplexity"] for text in report["texts"]], report["right_share"]


    def merged(self, yaml):
        """The folder of what a YAML of `moerge merge` makes."""
        out = self.folder / f"merged-{yaml.stem}"
        run = subprocess.run([self.a.moerge, "merge", yaml, out, "--quiet"], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{yaml}: {run.stderr}")
        return out


def find(folder, name):
    ends = (".jsonl", ".txt") if name == "train" else (".txt", ".jsonl")
    return next((folder / f"{name}{end}" for end in ends if (folder / f"{name}{end}").is_file()), None)


def words_of(folder):
    file = folder / "words.txt"
    return file.read_text().split("\n")[:5] if file.is_file() else WORDS.get(folder.name)


def sentences_of(folder):
    """One sentence of 10 to 25 words (or, where there is none, a piece of about 90 characters) from each of 16 documents."""
    file = find(folder, "train")
    text = file.read_text(encoding="utf-8")
    documents = [json.loads(line)["text"] for line in text.split("\n") if line.strip()] if file.suffix == ".jsonl" else [text]
    pieces = []
    for document in documents[:: max(1, len(documents) // (3 * SENTENCES))]:
        middle = document[len(document) // 3:][:4000]
        found = [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", middle)][1:]
        fit = [s for s in found if 10 <= len(s.split()) <= 25]
        piece = fit[0] if fit else " ".join(middle.split(" ")[1:])[:90]
        if piece.strip():
            pieces.append(piece)
    return pieces[:SENTENCES]


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path("examples/family"))
    parser.add_argument("--merge", type=pathlib.Path, nargs="+", default=[], help="YAML files of moerge merge: dense models to compare with")
    parser.add_argument("--moerge", default="build/release/moerge")
    parser.add_argument("--max-tokens", type=int, default=10240, help="of held-out text, a domain")
    parser.add_argument("--window", type=int, default=256, help="tokens that see each other in the held-out text")
    parser.add_argument("--fit-tokens", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--flag", action="append", default=[], help="another flag of moerge route")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Bench(a, folder))


def run(bench):
    domains, rows = bench.domains, []

    def add(name, result, right=True):
        rows.append((name, result[0], result[1] if right else None))

    def mixture(name, mode, per_token=2, **keys):
        if all(values[d] for values in keys.values() for d in domains):
            add(name, bench.route("base", domains, mode=mode, per_token=per_token, **keys))

    def dense(model):
        return bench.route(model, [model], per_token=1, label=False)

    add("(dense base)", dense("base"), right=False)
    for yaml in bench.a.merge:
        add(f"(dense merge, {yaml.stem})", dense(bench.merged(yaml)), right=False)
    own = [bench.route(d, [d], per_token=1, texts=[d], label=False)[0][0] for d in domains]
    perfect = [bench.route("base", [d], per_token=1, texts=[d], label=False)[0][0] for d in domains]
    mixture("random", "random")
    words, sentences = dict(positive_prompts=bench.words), dict(positive_prompts=bench.sentences)
    for mode in ("cheap_embed", "hidden", "hidden_avg", "router_input"):
        mixture(f"{mode}, 5 words", mode, **words)
    for mode in ("hidden", "hidden_avg", "router_input"):
        mixture(f"{mode}, {SENTENCES} sentences", mode, **sentences)
    for mode, amounts in (("router_input", bench.a.fit_tokens[-2:-1]), ("ridge", bench.a.fit_tokens)):
        for tokens in amounts:
            mixture(f"{mode}, {tokens} tokens of data", mode, data={d: str(find(bench.data / d, "train")) for d in domains},
                    max_tokens=dict.fromkeys(domains, tokens))
    rows.append(("(perfect routing, base's attention)", perfect, 1))
    rows.append(("(each text by its own dense expert)", own, 1))
    top1 = [("hidden, 5 words", "hidden", words), (f"router_input, {SENTENCES} sentences", "router_input", sentences)]
    for name, mode, keys in top1:
        mixture(f"{name}, 1 expert a token", mode, per_token=1, **keys)
    mixture(f"ridge, {bench.a.fit_tokens[-2]} tokens of data, 1 expert a token", "ridge", per_token=1,
            data={d: str(find(bench.data / d, "train")) for d in domains},
            max_tokens=dict.fromkeys(domains, bench.a.fit_tokens[-2]))

    hidden = next((geometric_mean(values) for name, values, _ in rows if name == "hidden, 5 words"), None)
    print(f"| gates | first choice right | geometric mean | gap closed | {' | '.join(domains)} |")
    print("|---" * (4 + len(domains)) + "|")
    for name, values, right in rows:
        mean = geometric_mean(values)
        closed = "" if hidden is None else f"{100 * math.log(hidden / mean) / math.log(hidden / geometric_mean(perfect)):.0f} %"
        print(f"| {name} | {'' if right is None else f'{right:.3f}'} | {mean:.2f} | {closed} | "
              f"{' | '.join(f'{v:.2f}' for v in values)} |")


if __name__ == "__main__":
    main()
