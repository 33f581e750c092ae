#!/usr/bin/env python3
"""Compares what `moerge chat --show-routing` shows with the router logits of transformers in float32 on the same text.

usage: ORACLE/venv/bin/python chat_routing.py FOLDER MOERGE TEXTFILE [--prompts N] [--tokens N] [--least 99.9]

FOLDER  a mixture that moerge wrote; an f16 GGUF of it is made meanwhile
ORACLE  see tests/golden/make.py
Prompts are cut from TEXTFILE; each is continued by N tokens. For every answered token and every layer the set of experts that
was shown must be that of the largest router logits of transformers; exits 0 only if so for --least percent of them.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("moerge")
    parser.add_argument("text")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--least", type=float, default=99.9)
    a = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(a.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(a.folder)
    with open(a.text, encoding="utf-8") as file:
        text = file.read()
    compared = same = tokens = 0
    smallest = float("inf")  # gap between the last chosen and the first rejected logit where the sets differ
    with tempfile.TemporaryDirectory() as folder:
        gguf = os.path.join(folder, "model.gguf")
        subprocess.run([a.moerge, "gguf", a.folder, gguf, "--type", "f16", "--quiet"], check=True)
        for i in range(a.prompts):
            start = i * len(text) // a.prompts
            prompt = text[start:start + 160]
            run = subprocess.run([a.moerge, "chat", gguf, "--prompt", prompt, "--plain", "--show-routing", "--json", "--quiet",
                                  "--predict", str(a.tokens), "--seed", str(i)], check=True, capture_output=True, text=True)
            shown = json.loads(run.stdout)["routing"]["tokens"]
            ids = tokenizer(prompt)["input_ids"] + [token["token"] for token in shown]
            with torch.no_grad():
                layers = model(torch.tensor([ids]), output_router_logits=True).router_logits
            first = len(ids) - len(shown)
            for number, token in enumerate(shown):
                assert token["index"] == number, "a token without routing"
                tokens += 1
                for layer, experts in zip(layers, token["experts"], strict=True):
                    logits = layer[first + number]
                    best = torch.topk(logits, len(experts) + 1)
                    compared += 1
                    if set(best.indices[:-1].tolist()) == set(experts):
                        same += 1
                    else:
                        smallest = min(smallest, (best.values[-2] - best.values[-1]).item())
    percent = 100 * same / compared
    print(f"{tokens} tokens in {a.prompts} answers, {compared} choices, {percent:.3f} % the same sets"
          + ("" if same == compared else f"; closest call among the others: {smallest:.2g}"))
    sys.exit(percent < a.least)


if __name__ == "__main__":
    main()
