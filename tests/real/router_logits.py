#!/usr/bin/env python3
"""Compares `moerge route` with transformers' own forward pass in float32, token by token and layer by layer.

usage: ORACLE/venv/bin/python router_logits.py FOLDER MOERGE TEXTFILE [--tokens N] [--dense FOLDER] [--least 99.9]

FOLDER  a mixture that moerge wrote (any family whose output_router_logits transformers knows)
ORACLE  see tests/golden/make.py
One line a check; exits 0 only if all hold: the tokens are those of the tokenizer in transformers; the set of chosen experts is
equal for at least 99.9 % of the tokens (over all layers); the perplexity is within 0.1 %. The largest difference of a logit is
printed. With --dense, the perplexity of a dense model in the same windows must be that of FOLDER as well: FOLDER is then a
mixture of that one model.

Weights stored as bfloat16 are multiplied by ggml in bfloat16 and by transformers here in float32, which decides some close
choices the other way: write FOLDER with dtype: float32, or ask for --least 99.
"""
import argparse
import json
import math
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

failed = 0


def check(ok, text):
    global failed
    failed += not ok
    print(("ok    " if ok else "FAIL  ") + text)


def read_windows(text, length):
    """Token rows of moerge's JSON by window: a beginning-of-sequence token, which is not counted, starts one; where a model
    has none, they follow by length."""
    windows = []
    for token in text["per_token"]:
        if not windows or not token["counted"] or len(windows[-1]) == length:
            windows.append([])
        windows[-1].append(token)
    return windows


def run_transformers(folder, windows, router):
    """Router logits [layer][token] of each window, and sum and count of -ln p."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits, loss, count = [], 0.0, 0
    for window in windows:
        ids = torch.tensor([[token["id"] for token in window]])
        with torch.no_grad():
            out = model(ids, output_router_logits=True) if router else model(ids)
        if router:
            logits.append([layer.float() for layer in out.router_logits])
        scores = torch.log_softmax(out.logits[0, :-1].double(), -1)
        loss -= scores.gather(1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    return logits, loss, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("moerge")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--dense")
    parser.add_argument("--least", type=float, default=99.9, help="percentage of equal choices (99.9)")
    a = parser.parse_args()
    run = subprocess.run([a.moerge, "route", a.folder, "--text", a.text, "--json", "--per-token",
                          "--max-tokens", str(a.tokens)], capture_output=True, text=True)
    if run.returncode:
        sys.exit("moerge failed:\n" + run.stderr)
    report = json.loads(run.stdout)
    text, chosen = report["texts"][0], report["experts_per_token"]
    windows = read_windows(text, report["window"])
    tokenizer = AutoTokenizer.from_pretrained(a.folder)
    whole = tokenizer((tokenizer.bos_token or "") + open(a.text, encoding="utf-8", newline="").read(), add_special_tokens=False)["input_ids"]
    read = [token["id"] for window in windows for token in window if token["counted"]]
    first = 1 if tokenizer.bos_token else 0
    check(len(read) == text["tokens"] and read == whole[first:first + len(read)], f"tokens: {len(read)}, the tokenizer's own")
    theirs, loss, count = run_transformers(a.folder, windows, True)
    places = same = 0
    worst = 0.0
    for window, layers in zip(windows, theirs):
        for layer, rows in enumerate(layers):
            for token, row in zip(window, rows):
                ours = token["layers"][layer]
                worst = max(worst, (torch.tensor(ours["logits"]) - row).abs().max().item())
                same += set(row.topk(chosen).indices.tolist()) == set(ours["experts"])
                places += 1
    check(places > 0 and same >= a.least / 100 * places,
          f"chosen experts: equal for {same} of {places} tokens and layers ({100 * same / max(1, places):.3f} %)")
    print(f"note  largest difference of a router logit: {worst:.3g}")
    perplexity = math.exp(loss / count)
    check(abs(text["perplexity"] / perplexity - 1) < 1e-3, f"perplexity: {text['perplexity']:.5f}, transformers {perplexity:.5f}")
    if a.dense:
        _, loss, count = run_transformers(a.dense, windows, False)
        perplexity = math.exp(loss / count)
        check(abs(text["perplexity"] / perplexity - 1) < 1e-3,
              f"perplexity: {text['perplexity']:.5f}, of the dense model in transformers {perplexity:.5f}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
