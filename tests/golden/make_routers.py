#!/usr/bin/env python3
"""Makes the expected rows of the gate modes router_input and ridge, by another way than moerge's.

usage: ORACLE/venv/bin/python tests/golden/make_routers.py [--case NAME ...]

Needs torch, transformers 5, tokenizers, numpy and PyYAML. The attention and the norms are transformers', in float32, one
sequence at a time; the rows are made from what they give by the formulas in moerge/moe/gates/router_input.cpp, ridge.cpp and
ridge_fit.h, in float64 with numpy.

Writes for every row of CASES:
  routers/CASE/config.yaml   the merge
  routers/CASE/*.txt|.jsonl  texts from the word lists below
  routers/CASE/rows.json     "rows": float32 [layers, experts, hidden], base64, the row of a shared expert last;
                             "config_sha256"; "notes": how much text there was
check_routers.py reads them. A second run changes no byte unless torch or transformers compute otherwise.
"""
import argparse, base64, hashlib, json, math, os, random, shutil

import numpy as np
import tokenizers
import torch
import transformers
import yaml
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "routers")

# ------------------------------------------------------------------------------------------------------------------ texts

WORDS = {
    "kitchen": (["the cook", "a baker", "my neighbour", "the old waiter"], ["stirs", "salts", "slices", "boils", "tastes"],
                ["the onions", "a warm soup", "two eggs", "the bread", "some rice"], ["slowly", "with butter", "in a pan"]),
    "program": (["def total(values):", "for i in range(n):", "if not found:", "while left > 0:"],
                ["return", "x +=", "print", "yield"], ["sum(values)", "items[i]", "len(text)", "None"], ["# loop", "# end", ""]),
    "numbers": (["if 3 x", "the sum of 12 and 7", "half of 64", "the root of y"], ["is", "equals", "divides", "exceeds"],
                ["19", "32 - z", "2 y + 5", "the angle"], ["so x is 4", "by 6", "for all n"]),
    "harbour": (["a grey ship", "the keeper", "the tide", "an old sailor"], ["leaves", "watches", "carries", "remembers"],
                ["the harbour", "the long storm", "a lantern", "the gulls"], ["at dusk", "before winter", "in the fog"]),
}


def sentences(topic, seed, count):
    draw = random.Random(f"{topic} {seed}")
    return [" ".join(filter(None, (draw.choice(part) for part in WORDS[topic]))) + draw.choice([".", ";", ""]) for _ in range(count)]


def paragraphs(topic, seed, count, each):
    return [" ".join(sentences(topic, f"{seed} {i}", each)) for i in range(count)]


def lines(topic, seed, count):
    """A plain text file."""
    return "".join(line + "\n" for line in sentences(topic, seed, count))


def documents(topic, seed, count, each=1):
    """A .jsonl file of less than 2048 bytes, which is read from its first row to its last."""
    text = "".join(json.dumps({"text": row}) + "\n" for row in paragraphs(topic, seed, count, each))
    assert len(text) < 2048, (topic, len(text))
    return text


# ------------------------------------------------------------------------------------------------------------------ cases


def expert(model, prompts=(), negative=(), scale=None, **files):
    """`files`: name without its ending -> text: rows of JSON give a .jsonl file, else it is a .txt file."""
    return dict(model=model, prompts=list(prompts), negative=list(negative), scale=scale, files=files)


def two(models, a, b, **more):
    # The FFNs of llama_f32/a hold numbers near the end of float32's range: nothing passes through them.
    first = "base" if models == "models/llama_f32" and more["mode"] == "ridge" else "a"
    return dict(models=models, experts=[expert(first, **a), expert("b", **b)], **more)


# "shows" is checked: "few" or "many" tokens, "held" out sequences or "all" fitted.
CASES = {
    "input_mixtral_f32": two(
        "models/llama_f32", dict(prompts=sentences("kitchen", 1, 3), negative=sentences("numbers", 2, 2)),
        dict(prompts=sentences("program", 3, 1), b=lines("program", 4, 110)), mode="router_input"),
    "input_mixtral_bf16": two(
        "models/mistral_sharded", dict(a=lines("kitchen", 5, 70)), dict(b=documents("harbour", 6, 12)), mode="router_input"),
    "input_qwen2_moe": two(
        "models/qwen2_tied", dict(prompts=sentences("kitchen", 7, 4)), dict(prompts=sentences("numbers", 8, 2)),
        shared=expert("base", sentences("harbour", 9, 3), sentences("program", 10, 1)), mode="router_input"),
    "input_qwen3_moe": two(
        "models/qwen3_tied", dict(prompts=sentences("program", 11, 4)), dict(a=documents("harbour", 12, 5)), mode="router_input"),
    "input_family": dict(
        models="../../examples/family", mode="router_input", dtype="bfloat16",
        experts=[expert("code", sentences("program", 13, 5)), expert("maths", sentences("numbers", 14, 5)),
                 expert("prose", sentences("harbour", 15, 5)), expert("dialogue", sentences("kitchen", 16, 5))]),
    "ridge_mixtral_f32_few": two(
        "models/llama_f32", dict(prompts=sentences("kitchen", 17, 6)), dict(prompts=sentences("program", 18, 2)), mode="ridge",
        shows=["few", "all"]),
    "ridge_mixtral_f32_many": two(
        "models/llama_f32", dict(a=documents("kitchen", 19, 20)), dict(prompts=sentences("program", 20, 9), b=documents(
            "program", 21, 6, 4)), mode="ridge", shows=["many", "held"]),
    "ridge_mixtral_bf16_uneven": two(
        "models/mistral_sharded", dict(a=lines("kitchen", 22, 40), more=lines("numbers", 23, 40)), dict(b=documents(
            "harbour", 24, 3, 5)), mode="ridge", shows=["many", "all"]),
    "ridge_qwen2_moe_shared": two(
        "models/qwen2_tied", dict(a=documents("kitchen", 25, 20)), dict(b=documents("numbers", 26, 24)),
        shared=expert("base", sentences("harbour", 27, 4), scale=0.6), mode="ridge", shows=["many", "held"]),
    "ridge_qwen2_moe_few": two(
        "models/qwen2_tied", dict(prompts=sentences("kitchen", 28, 9)), dict(prompts=sentences("numbers", 29, 8)),
        shared=expert("base", sentences("harbour", 30, 4)), mode="ridge", shows=["few", "held"]),
    "ridge_qwen3_moe": two(
        "models/qwen3_tied", dict(a=documents("program", 31, 12, 2), scale=1.5), dict(prompts=sentences("harbour", 32, 3), b=documents(
            "harbour", 33, 4, 5)), mode="ridge", shows=["many", "all"]),
    "ridge_family_few": dict(
        models="../../examples/family", mode="ridge", shows=["few", "held"],
        experts=[expert("code", sentences("program", 34, 9)), expert("maths", sentences("numbers", 35, 8)),
                 expert("prose", sentences("harbour", 36, 12)), expert("dialogue", sentences("kitchen", 37, 10))]),
    "ridge_family_many": dict(
        models="../../examples/family", mode="ridge", dtype="float32", shows=["many", "all"],
        experts=[expert("code", x=lines("program", 38, 80)), expert("maths", x=lines("numbers", 39, 80)),
                 expert("prose", x=lines("harbour", 40, 70)), expert("dialogue", x=lines("kitchen", 41, 80))]),
}


def write_case(name, case):
    folder = os.path.join(FOLDER, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    models = f"../../{case['models']}"
    out = {"base_model": f"{models}/base", "gate_mode": case["mode"]}
    if "dtype" in case:
        out["dtype"] = case["dtype"]

    def entry(number, given):
        row, data = {"source_model": f"{models}/{given['model']}"}, []
        for stem, text in given["files"].items():
            data.append(f"{stem}{number}" + (".jsonl" if text.startswith("{") else ".txt"))
            with open(os.path.join(folder, data[-1]), "w", encoding="utf-8") as f:
                f.write(text)
        for key, value in (("positive_prompts", given["prompts"]), ("negative_prompts", given["negative"]), ("data", data),
                           ("residual_scale", given["scale"])):
            if value:
                row[key] = value
        return row

    out["experts"] = [entry(i, e) for i, e in enumerate(case["experts"])]
    if "shared" in case:
        out["shared_experts"] = [entry("s", case["shared"])]
    with open(os.path.join(folder, "config.yaml"), "w", encoding="utf-8") as f:
        yaml.safe_dump(out, f, sort_keys=False, width=1000)


# -------------------------------------------------------------------------------------------------------------- sequences


class Reader:
    """Texts to token sequences, by the contract in moerge/moe/texts.h, for files that are read whole."""

    def __init__(self, base):
        self.tokenizer = tokenizers.Tokenizer.from_file(os.path.join(base, "tokenizer.json"))
        with open(os.path.join(base, "tokenizer_config.json"), encoding="utf-8") as f:
            bos = json.load(f).get("bos_token") or ""
        self.bos = bos["content"] if isinstance(bos, dict) else bos

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, text):
        return self.encode(self.bos + text)

    def piece(self, text, whole):
        ids = self.prompt(text)
        prefix = self.encode(self.bos) if self.bos else []
        out, at = [], 0
        while at < len(ids):
            head = prefix if at else []
            part = head + ids[at:at + 512 - len(head)]
            at += 512 - len(head)
            if len(part) >= 8 or (whole and len(ids) < 8):
                out.append(part)
        return out

    def file(self, path):
        with open(path, encoding="utf-8") as f:
            text = f.read()
        if path.endswith(".jsonl"):
            return [s for row in text.splitlines() for s in self.piece(json.loads(row)["text"], True)]
        # Pieces of about 2048 bytes that end after the last line break of theirs.
        size, begin, out = len(text), 0, []
        assert len(text.encode()) == size
        for slot in range(math.ceil(size / 2048)):
            end = size if (slot + 1) * 2048 >= size else text.rfind("\n", 0, (slot + 1) * 2048) + 1
            out += self.piece(text[begin:end], size <= 2048)
            begin = end
        return out


def read_case(name):
    """(config, base folder, [(expert, is it negative, token ids)])"""
    folder = os.path.join(FOLDER, name)
    with open(os.path.join(folder, "config.yaml"), encoding="utf-8") as f:
        config = yaml.safe_load(f)
    base = os.path.join(folder, config["base_model"])
    reader, out = Reader(base), []
    for number, e in enumerate(config["experts"] + config.get("shared_experts", [])):
        out += [(number, False, reader.prompt(p)) for p in e.get("positive_prompts", [])]
        out += [(number, False, ids) for file in e.get("data", []) for ids in reader.file(os.path.join(folder, file))]
        out += [(number, True, reader.prompt(p)) for p in e.get("negative_prompts", [])]
    return config, base, out


# ----------------------------------------------------------------------------------------------------------------- models


class Pass:
    """The base's layers one after the other, over all sequences; whoever drives it adds what the FFNs give."""

    def __init__(self, base, sequences):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="sdpa").eval().model
        self.sequences = sequences
        self.states = [self.model.embed_tokens(torch.tensor([ids])) for ids in sequences]

    def __len__(self):
        return len(self.model.layers)

    def router_inputs(self, number):
        """After a layer's attention and the norm before its FFN: [tokens, hidden] a sequence."""
        layer, out = self.model.layers[number], []
        for i, x in enumerate(self.states):
            positions = self.model.rotary_emb(x, torch.arange(x.shape[1])[None])
            attended, *_ = layer.self_attn(hidden_states=layer.input_layernorm(x), position_embeddings=positions,
                                           attention_mask=None)
            self.states[i] = x + attended
            out.append(layer.post_attention_layernorm(self.states[i])[0])
        return out


class Ffn:
    """The FFNs of a model folder: layer, x -> what is added to the stream."""

    def __init__(self, folder, scale=1.0):
        files = [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f.endswith(".safetensors")]
        self.tensors = {k: t.float() for f in files for k, t in load_file(f).items() if ".mlp." in k}
        self.scale = scale

    def __call__(self, layer, x):
        gate, up, down = (self.tensors[f"model.layers.{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return self.scale * ((torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T)


# ------------------------------------------------------------------------------------------------------------------- rows


def unit(v):
    return v / max(np.linalg.norm(v), 1e-8)


def balanced(meant, experts):
    w = np.zeros(len(meant))
    for e in range(experts):
        w[meant == e] = 1 / (experts * np.count_nonzero(meant == e))
    return w


def sharpening(rows, x, w):
    """The factor that puts the largest logit 4 above the mean of all, on average."""
    logits = x @ rows.T
    return 4 * w.sum() / (w * (logits.max(1) - logits.mean(1))).sum()


def input_rows(x, owner, negative, meant, routed):
    rows = []
    for e in range(owner.max() + 1):
        row = x[(owner == e) & ~negative].mean(0)
        if (owner[negative] == e).any():
            row = row - x[(owner == e) & negative].mean(0)
        rows.append(unit(row))
    rows = np.array(rows)
    rows -= rows[:routed].mean(0)
    return rows * sharpening(rows[:routed], x, balanced(meant, routed))


def ridge_rows(x, meant, experts):
    x, meant = x[meant >= 0], meant[meant >= 0]
    hidden, fewest = x.shape[1], np.bincount(meant, minlength=experts).min()
    w, y = balanced(meant, experts), np.eye(experts)[meant]
    a = (x * w[:, None]).T @ x
    m = np.trace(a) / hidden
    lam = max(0.01, 0.05 * hidden / fewest)
    rows = np.linalg.solve(a + lam * m * np.eye(hidden), (x * w[:, None]).T @ (y - 1 / experts)).T
    if fewest < 8 * hidden:
        return rows * sharpening(rows, x, w)

    def softmax(s):
        p = np.exp(s - s.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    # The best factor, by bisection: the derivative of a convex function of one number.
    s = x @ rows.T
    slope = lambda t: (w * ((softmax(t * s) - y) * s).sum(1)).sum() + 1e-3 * m * t * (rows**2).sum()
    low, high = 0.0, 1.0
    while slope(high) < 0:
        high *= 2
    for _ in range(200):
        low, high = ((low + high) / 2, high) if slope((low + high) / 2) < 0 else (low, (low + high) / 2)
    rows = rows * low

    bound = np.linalg.inv(0.5 * a + 1e-3 * m * np.eye(hidden))
    last, ahead, age = rows, rows, 1
    for _ in range(20):
        gradient = ((softmax(x @ ahead.T) - y) * w[:, None]).T @ x + 1e-3 * m * ahead
        rows = ahead - gradient @ bound
        if (gradient * (rows - last)).sum() > 0:
            age = 1
        ahead = rows + (age - 1) / (age + 2) * (rows - last)
        last, age = rows, age + 1
    return 1.5 * rows


def held_out(sequences, routed):
    """Every eighth sequence of an expert, where all have so many."""
    seen, held = [0] * routed, []
    for e, negative, _ in sequences:
        counts = not negative and e < routed
        if counts:
            seen[e] += 1
        held.append(counts and seen[e] % 8 == 0)
    return held if min(seen) >= 8 else [False] * len(held)


@torch.no_grad()
def expected_rows(name, shows):
    """float64 [layers, experts, hidden]"""
    config, base, sequences = read_case(name)
    folder, routed, ridge = os.path.join(FOLDER, name), len(config["experts"]), config["gate_mode"] == "ridge"
    spread = lambda values: np.concatenate([np.full(len(ids), v) for v, (*_, ids) in zip(values, sequences)])
    owner, negative = spread([e for e, *_ in sequences]), spread([n for _, n, _ in sequences]).astype(bool)
    meant = np.where(negative | (owner >= routed), -1, owner)
    held = held_out(sequences, routed)
    fitted = np.where(spread(held).astype(bool), -1, meant)
    counts = np.bincount(fitted[fitted >= 0])

    run = Pass(base, [ids for *_, ids in sequences])
    ffns = [Ffn(os.path.join(folder, e["source_model"]), e.get("residual_scale", 1.0))
            for e in config["experts"] + config.get("shared_experts", [])]
    dense = Ffn(base)
    found = set()
    if ridge:
        hidden = run.model.config.hidden_size
        found = {"many" if counts.min() >= 8 * hidden else "few", "held" if any(held) else "all"}
    assert found == set(shows), (name, found, counts)

    layers = []
    for layer in range(len(run)):
        parts = run.router_inputs(layer)
        x = torch.cat(parts).double().numpy()
        if not ridge:
            rows = input_rows(x, owner, negative, meant, routed)
        else:
            rows = ridge_rows(x, fitted, routed)
            if len(ffns) > routed:  # a shared expert: its own mean against the experts'
                means = np.array([unit(x[(owner == e) & ~negative].mean(0)) for e in range(len(ffns))])
                rows = np.vstack([rows, means[routed] - means[:routed].mean(0)])
        layers.append(rows)
        for i, (e, _, _) in enumerate(sequences):
            u = parts[i]
            if not ridge:
                add = dense(layer, u)
            elif e < routed:
                add = ffns[e](layer, u)
            else:  # as Qwen2-MoE routes it: the first two of a softmax over all, not scaled to 1
                best = torch.softmax(u.double() @ torch.from_numpy(rows[:routed]).T, -1).topk(config.get("experts_per_token", 2))
                add = sum((best.values[:, [k]] * (best.indices[:, [k]] == other)).float() * ffns[other](layer, u)
                          for k in range(best.indices.shape[1]) for other in range(routed))
            if ridge and len(ffns) > routed:
                add = add + torch.sigmoid(u.double() @ torch.from_numpy(rows[routed])).float()[:, None] * ffns[routed](layer, u)
            run.states[i] = run.states[i] + add
    if not ridge:  # the pass by hand is transformers' own
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval().model
        for ids, state in zip(run.sequences, run.states):
            assert torch.allclose(model(torch.tensor([ids])).last_hidden_state, model.norm(state), atol=1e-4), name
    return np.array(layers), f"{len(sequences)} sequences, tokens fitted {counts.tolist()}"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--case", action="append")
    args = ap.parse_args()
    torch.set_num_threads(1)
    for name in args.case or CASES:
        write_case(name, CASES[name])
        rows, notes = expected_rows(name, CASES[name].get("shows", []))
        with open(os.path.join(FOLDER, name, "config.yaml"), "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        data = base64.b64encode(rows.astype("<f4").tobytes()).decode()
        with open(os.path.join(FOLDER, name, "rows.json"), "w", encoding="utf-8") as f:
            json.dump({"config_sha256": digest, "notes": notes, "rows": {"dtype": "F32", "shape": list(rows.shape), "data": data}}, f, indent=0)
            f.write("\n")
        print(f"{name}: {rows.shape}, lengths {np.linalg.norm(rows, axis=-1).min():.3g} .. {np.linalg.norm(rows, axis=-1).max():.3g}, {notes}", flush=True)


if __name__ == "__main__":
    main()
