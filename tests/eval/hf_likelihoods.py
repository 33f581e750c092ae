#!/usr/bin/env python3
"""Answers the requests of requests.py with lm-evaluation-harness's transformers backend in float32.

usage: hf_likelihoods.py MODEL_FOLDER REQUESTS.jsonl.gz ANSWERS.jsonl [--device cuda] [--round f16]

Run by a Python that has lm_eval, torch and transformers. --round: matrices take the values that a GGUF of this type keeps of them.
A line of ANSWERS: {"value": sum of ln p, "greedy": true}.
"""
import argparse, gzip, json

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("requests")
    parser.add_argument("answers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--round", choices=["f16", "bf16"])
    a = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    model = HFLM(pretrained=a.model, dtype="float32", device=a.device, batch_size=a.batch)
    if a.round:
        kept = {"f16": torch.float16, "bf16": torch.bfloat16}[a.round]
        with torch.no_grad():
            for parameter in model.model.parameters():
                if parameter.dim() > 1:
                    parameter.copy_(parameter.to(kept).to(torch.float32))
    rows = [json.loads(line) for line in gzip.open(a.requests, "rt", encoding="utf-8")]
    requests = [Instance("loglikelihood", {}, (row["context"], row["continuation"]), index) for index, row in enumerate(rows)]
    with open(a.answers, "w", encoding="utf-8") as file:
        for value, greedy in model.loglikelihood(requests, disable_tqdm=True):
            file.write(json.dumps({"value": float(value), "greedy": bool(greedy)}) + "\n")


if __name__ == "__main__":
    main()
