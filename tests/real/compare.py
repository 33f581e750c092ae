#!/usr/bin/env python3
"""Compares a folder that moerge wrote with what the real mergekit-moe, and transformers in float32, make of the same YAML.

usage: ORACLE/venv/bin/python compare.py CONFIG OURS [--oracle ORACLE] [--which new|old] [--logits] [--keep FOLDER]

CONFIG  the YAML that OURS was built from; its paths must be readable from the current folder
ORACLE  see tests/golden/make.py
One line a check; exits 0 only if all hold: tensor names (either layout of the experts), shapes and types; every copied tensor
bit-exact; router rows, those of a shared expert included, by cosine with mergekit (>= 0.999) and in hidden modes with float32
transformers (>= 0.9999); config.json key by key; with --logits the logits of both folders in transformers (<= 1e-4 apart).
Judge by the new one: 0.1.4 ignores residual_scale for Mixtral, and transformers 4 overrides some tokenizers' add_prefix_space.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED_KEYS = {"transformers_version", "torch_dtype", "dtype", "rope_theta", "rope_parameters", "rope_scaling", "_name_or_path",
                "pad_token_id"}
cosine = torch.nn.functional.cosine_similarity
failed = 0


def check(ok, text):
    global failed
    failed += not ok
    print(("ok    " if ok else "FAIL  ") + text)


def run_mergekit(a, out):
    env = dict(os.environ, HF_HUB_OFFLINE="1")
    if a.which == "old":
        env["PYTHONPATH"] = f"{a.oracle}/old"
        os.makedirs(out, exist_ok=True)  # its DeepSeek MoE does not make the folder
    run = subprocess.run([f"{a.oracle}/venv/bin/python", "-m", "mergekit.scripts.moe", a.config, out, "--random-seed", "0"],
                         env=env, capture_output=True, text=True)
    if run.returncode:
        sys.exit("mergekit itself failed:\n" + run.stderr[-2000:])


def read_tensors(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    where = json.load(open(index))["weight_map"] if os.path.exists(index) else {}
    out = {}
    for file in sorted(set(where.values())) or ["model.safetensors"]:
        with safe_open(os.path.join(folder, file), "pt") as stored:
            check((stored.metadata() or {}).get("format") == "pt", f"{file}: metadata format is pt")
            for name in stored.keys():
                if where and where[name] != file:
                    check(False, f"{name}: in {file}, and the index names {where[name]}")
                out[name] = stored.get_tensor(name)
    return out


def one_layout(tensors):
    """One tensor an expert and matrix, under one family of names."""
    out = {}
    for name, t in tensors.items():
        if name.endswith("mlp.experts.gate_up_proj"):
            prefix, ffn = name.removesuffix("gate_up_proj"), t.shape[1] // 2
            for e in range(t.shape[0]):
                out[f"{prefix}{e}.gate_proj.weight"], out[f"{prefix}{e}.up_proj.weight"] = t[e, :ffn], t[e, ffn:]
        elif name.endswith("mlp.experts.down_proj"):
            for e in range(t.shape[0]):
                out[f"{name.removesuffix('down_proj')}{e}.down_proj.weight"] = t[e]
        else:
            name = name.replace("block_sparse_moe.", "mlp.")
            for mixtral, usual in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
                name = name.replace(f".{mixtral}.weight", f".{usual}.weight")
            out[name] = t
    return out


def is_router(name):
    return name.endswith(("mlp.gate.weight", "shared_expert_gate.weight"))


def compare_tensors(mine, theirs, config, mode):
    only_mine, only_theirs = sorted(set(mine) - set(theirs)), sorted(set(theirs) - set(mine))
    check(not only_mine and not only_theirs,
          f"tensor names: {len(mine)} here, {len(theirs)} there; only here {only_mine[:4]}; only there {only_theirs[:4]}")
    noisy = {"experts": [bool(e.get("noise_scale")) for e in config["experts"]],
             "shared": [bool(e.get("noise_scale")) for e in config.get("shared_experts") or []]}
    same, different, worst = 0, 0, 1.0
    for name in sorted(set(mine) & set(theirs)):
        x, y = mine[name], theirs[name]
        if x.shape != y.shape or x.dtype != y.dtype:
            check(False, f"{name}: {tuple(x.shape)} {x.dtype}, there {tuple(y.shape)} {y.dtype}")
        elif is_router(name):
            worst = min(worst, cosine(x.float(), y.float(), dim=-1).min().item())
        elif (".experts." in name and noisy["experts"][int(name.split(".")[5])]) or (".shared_expert" in name and any(noisy["shared"])):
            pass  # random numbers of another generator
        else:
            equal = torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8))
            same, different = same + equal, different + (not equal)
            if not equal and different < 4:
                check(False, f"{name}: differs by up to {(x.float() - y.float()).abs().max().item():.3g}")
    check(different == 0, f"copied tensors: {same} bit-exact, {different} not")
    if mode == "hidden_avg":
        print(f"note  router rows against mergekit: worst cosine {worst:.6f} (it averages padding in: not judged)")
    elif mode not in ("random", "uniform_random"):
        check(worst >= 0.999, f"router rows against mergekit: worst cosine {worst:.6f}")


def compare_with_float32(mine, config, mode):
    base = AutoModelForCausalLM.from_pretrained(config["base_model"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(config["base_model"])

    def mean_hidden(prompts):
        rows = []
        for prompt in prompts:
            ids = tokenizer((tokenizer.bos_token or "") + prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                h = torch.stack(base(input_ids=ids, output_hidden_states=True).hidden_states[:-1])[:, 0]
            rows.append(h.mean(1) if mode == "hidden_avg" else h[:, -1])
        return torch.stack(rows).mean(0)

    worst = 1.0
    routed = [("gate", e, expert) for e, expert in enumerate(config["experts"])]
    shared = [("shared_expert_gate", e, expert) for e, expert in enumerate(config.get("shared_experts") or [])]
    for router, row, expert in routed + shared:
        if not expert.get("positive_prompts"):
            continue  # a shared expert without a router
        h = mean_hidden(expert["positive_prompts"])
        if expert.get("negative_prompts"):
            h = h - mean_hidden(expert["negative_prompts"])
        for layer in range(h.shape[0]):
            made = mine[f"model.layers.{layer}.mlp.{router}.weight"][row].float()
            worst = min(worst, cosine(h[layer], made, dim=0).item())
    check(worst >= 0.9999, f"router rows against float32 transformers: worst cosine {worst:.6f}")


def compare_configs(ours, theirs):
    mine, other = (json.load(open(os.path.join(folder, "config.json"))) for folder in (ours, theirs))
    both = (set(mine) & set(other)) - IGNORED_KEYS
    bad = {key: (mine[key], other[key]) for key in both if mine[key] != other[key]}
    check(not bad, f"config.json: shared keys agree {bad or ''}")
    print("note  config.json keys only there:", sorted(set(other) - set(mine)), "only here:", sorted(set(mine) - set(other)))


def compare_logits(ours, theirs):
    """With our routers in both: the last bit of a router may decide a near-tie."""
    mine, other = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in (ours, theirs))
    state, our_state = other.state_dict(), mine.state_dict()
    for name in state:
        if "gate.weight" in name:
            state[name].copy_(our_state[name])
    torch.manual_seed(0)
    ids = torch.randint(3, mine.config.vocab_size, (2, 64))
    with torch.no_grad():
        difference = (mine(input_ids=ids).logits - other(input_ids=ids).logits).abs().max().item()
    check(difference <= 1e-4, f"logits in transformers: largest difference {difference:.3g}")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("config")
    ap.add_argument("ours")
    ap.add_argument("--oracle", default=os.path.expanduser("~/.cache/moerge-oracle"))
    ap.add_argument("--which", choices=["new", "old"], default="new")
    ap.add_argument("--logits", action="store_true")
    ap.add_argument("--keep", help="write mergekit's result here")
    a = ap.parse_args()
    with open(a.config, encoding="utf-8") as f:
        config = yaml.safe_load(f)
    mode = config.get("gate_mode", "hidden")
    with tempfile.TemporaryDirectory(prefix="mergekit-") as temp:
        theirs = a.keep or os.path.join(temp, "out")
        run_mergekit(a, theirs)
        mine = one_layout(read_tensors(a.ours))
        compare_tensors(mine, one_layout(read_tensors(theirs)), config, mode)
        if mode.startswith("hidden"):
            compare_with_float32(mine, config, mode)
        compare_configs(a.ours, theirs)
        if a.logits:
            compare_logits(a.ours, theirs)
    sys.exit(failed > 0)


main()
