#!/usr/bin/env python3
"""Loads a GGUF in an independent build of llama.cpp (the PyPI wheel xllamacpp) and compares its next-token log-probabilities with
those of transformers in float32 on the model folder that the GGUF was made from.

usage: gguf_logits.py MODEL_FOLDER GGUF TEXT_FILE [--prompts 8] [--tokens 48] [--limit 0.01]

Needs torch, transformers and xllamacpp. Prompts are pieces of the text, given to both as token ids; compared are all tokens of
the vocabulary with a probability above 1e-6. Prints the largest and the mean difference, and whether both tokenise the text
to the same ids; exits 1 when the largest exceeds the limit.
"""
import argparse
import json
import math
import sys
import urllib.request

import torch
import xllamacpp
from transformers import AutoModelForCausalLM, AutoTokenizer


def serve(path, context):
    """The server, which must stay referenced, and its address."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_batch, params.warmup, params.port = context, context, False, 0
    params.cpuparams.n_threads = 2
    server = xllamacpp.Server(params)
    return server, server.listening_address


def post(address, request):
    body = urllib.request.Request(address, json.dumps(request).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(body) as answer:
        return json.load(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("gguf")
    parser.add_argument("text")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--limit", type=float, default=0.01)
    a = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(a.folder)
    model = AutoModelForCausalLM.from_pretrained(a.folder, dtype=torch.float32)
    server, address = serve(a.gguf, max(256, 2 * a.tokens))
    text = open(a.text, encoding="utf-8").read()[: 40 * a.prompts * a.tokens]
    ids = tokenizer.encode(text, add_special_tokens=False)
    largest = total = count = 0
    same_text = True
    for i in range(a.prompts):
        prompt = ids[i * a.tokens : (i + 1) * a.tokens]
        words = tokenizer.decode(prompt)
        found = post(address + "/tokenize", {"content": words, "add_special": False})["tokens"]
        same_text = same_text and found == tokenizer.encode(words, add_special_tokens=False)
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1)
        answer = post(address + "/completion", {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": len(expected),
                                                "cache_prompt": False})
        top = answer["completion_probabilities"][0]["top_logprobs"]
        for entry in top:
            reference = expected[entry["id"]].item()
            if reference < math.log(1e-6):
                continue
            difference = abs(entry["logprob"] - reference)
            largest, total, count = max(largest, difference), total + difference, count + 1
    print(f"{count} log-probabilities: largest difference {largest:.5f}, mean {total / count:.6f}; "
          f"{'the same' if same_text else 'DIFFERENT'} token ids")
    sys.exit(largest > a.limit or not same_text)


main()
