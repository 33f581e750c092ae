#!/usr/bin/env python3
"""Runs moerge on every golden case and compares what it writes with what the real mergekit wrote (see README.md).

usage: check.py MOERGE_BINARY [--case NAME ...]

Needs nothing but Python's standard library. Prints one line a case, the reasons of a failure under it, and at the end
"N passed, M failed" alone on a line; exits 0 only if nothing failed.
"""
import argparse, base64, hashlib, itertools, json, math, os, struct, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
VERSIONS = ("0.1.4", "0.1.5")
DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
EXPERT_TENSORS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}  # Mixtral's; the other families have the latter
EXPERT_COUNT = {"mixtral": "num_local_experts", "qwen2_moe": "num_experts", "qwen3_moe": "num_experts",
                "deepseek": "n_routed_experts"}
COPIED_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")

# Keys on which the two mergekits disagree by themselves, or whose spelling depends on the transformers version. Rope and
# dtype are compared by meaning instead, see check_rope_and_dtype().
CONFIG_IGNORED = {"transformers_version", "torch_dtype", "dtype", "rope_theta", "rope_parameters", "rope_scaling", "_name_or_path",
                  "pad_token_id"}
# Without these (and EXPERT_COUNT) a reader falls back to its class's defaults, which are those of Mixtral 8x7B, say.
CONFIG_REQUIRED = {"architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                   "num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps",
                   "tie_word_embeddings", "bos_token_id", "eos_token_id", "num_experts_per_tok"}

MERGEKIT_COSINE = 0.999        # mergekit runs the base in bfloat16
CHEAP_EMBED_COSINE = 0.99999   # no forward pass, float32 in mergekit too: only the rounding of the written rows remains
REFERENCE_COSINE = 0.9999      # float32 forward pass; the rows are rounded to the output's dtype


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


class Tensor:
    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, shape, data

    def values(self):
        if self.dtype == "BF16":  # the upper half of a float32
            wide = bytearray(2 * len(self.data))
            wide[2::4], wide[3::4] = self.data[0::2], self.data[1::2]
            return struct.unpack(f"<{len(wide) // 4}f", wide)
        letter = {"F16": "e", "F32": "f"}[self.dtype]
        return struct.unpack(f"<{len(self.data) // DTYPE_BYTES[self.dtype]}{letter}", self.data)

    def rows(self):
        v, width = self.values(), self.shape[-1]
        return [v[i:i + width] for i in range(0, len(v), width)]


def stored_tensor(entry):
    """A router out of mergekit-V.json."""
    return Tensor(entry["dtype"], entry["shape"], base64.b64decode(entry["data"]))


class Case:
    """One run of moerge and everything that was found wrong with it."""

    def __init__(self, name):
        self.name = name
        self.dir = os.path.join(HERE, "cases", name)
        info = read_json(os.path.join(self.dir, "case.json"))
        self.config, self.config_sha256 = info["config"], info["config_sha256"]
        self.mode = self.config.get("gate_mode", "hidden")
        flags = os.path.join(self.dir, "flags")
        self.flags = read_bytes(flags).decode().split() if os.path.exists(flags) else []
        self.wrong = {}       # text -> the mergekits that it was judged by
        self.judge = None
        self.tensors = {}
        self.model_type = None  # of the result
        self.worst = {}  # what the rows were compared with -> worst cosine

    def fail(self, text):
        self.wrong.setdefault(text, []).append(self.judge)

    def expect(self, what, expected, found):
        self.expect_that(expected == found, what, expected, found)

    def expect_that(self, ok, what, expected, found):
        if not ok:
            self.fail(f"{what}: expected {expected}, found {found}")

    def failures(self):
        return [f"{text} ({', '.join(judges)})" if judges[0] else text for text, judges in self.wrong.items()]

    def model_file(self, model, name):
        return os.path.join(self.dir, model, name)


# ------------------------------------------------------------------------------------------------------------ safetensors


def read_safetensors(path, case):
    """The tensors of one file; what is wrong with the file itself goes to `case`."""
    name = os.path.basename(path)
    raw = read_bytes(path)
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    data = memoryview(raw)[8 + size:]
    case.expect(f"{name}: __metadata__ format", "pt", header.pop("__metadata__", {}).get("format"))
    out, end = {}, 0
    for tensor, row in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = row["data_offsets"]
        case.expect(f"{name}: {tensor}: begin of its bytes (no gap, no overlap)", end, begin)
        case.expect(f"{name}: {tensor}: number of bytes", math.prod(row["shape"]) * DTYPE_BYTES.get(row["dtype"], 0), stop - begin)
        out[tensor], end = Tensor(row["dtype"], row["shape"], bytes(data[begin:stop])), stop
    case.expect(f"{name}: bytes after the header", end, len(data))
    return out


def read_checkpoint(folder, case):
    """All tensors of a model folder, in one file or in several with an index."""
    index = os.path.join(folder, "model.safetensors.index.json")
    on_disk = sorted(f for f in os.listdir(folder) if f.endswith(".safetensors"))
    if not os.path.exists(index):
        case.expect("weight files", ["model.safetensors"], on_disk)
        return read_safetensors(os.path.join(folder, "model.safetensors"), case)
    index = read_json(index)
    case.expect("weight files", sorted(set(index["weight_map"].values())), on_disk)
    out = {}
    for f in on_disk:
        tensors = read_safetensors(os.path.join(folder, f), case)
        case.expect(f"{f}: tensors, against the index", sorted(k for k, v in index["weight_map"].items() if v == f), sorted(tensors))
        out.update(tensors)
    case.expect("index: total_size", sum(len(t.data) for t in out.values()), index["metadata"]["total_size"])
    return out


# ----------------------------------------------------------------------------------------------------------------- checks


def expert_of(name):
    """(list in the YAML, number in it, "gate_proj" | "down_proj" | "up_proj") of an expert's tensor, else None."""
    parts = name.split(".")
    if parts[3:5] in (["block_sparse_moe", "experts"], ["mlp", "experts"]):
        return "experts", int(parts[5]), EXPERT_TENSORS.get(parts[6], parts[6])
    if parts[3:5] in (["mlp", "shared_expert"], ["mlp", "shared_experts"]):
        return "shared_experts", 0, parts[5]
    return None


def check_tensors(case, golden, version):
    """Names, types and shapes of everything, and the bytes of all that is copied."""
    expected = {**golden["tensors"], **golden["gates"]}
    for name in sorted(set(expected) - set(case.tensors)):
        case.expect(name, "a tensor, as mergekit writes", "none")
    for name in sorted(set(case.tensors) - set(expected)):
        case.expect(name, "no such tensor, as in mergekit", "one")
    for name in sorted(set(expected) & set(case.tensors)):
        want, have = expected[name], case.tensors[name]
        case.expect(f"{name}: dtype", want["dtype"], have.dtype)
        case.expect(f"{name}: shape", want["shape"], have.shape)
        if "sha256" not in want or (want["dtype"], want["shape"]) != (have.dtype, have.shape):
            continue
        if expert_of(name):
            kind, number, part = expert_of(name)
            expert = case.config[kind][number]
            if expert.get("noise_scale"):
                continue  # check_noise() looks at these
            ignored = version == "0.1.4" and case.model_type == "mixtral"  # it ignores residual_scale there
            if ignored and part == "down_proj" and expert.get("residual_scale") is not None:
                continue
        case.expect(f"{name}: sha256 of the bytes", want["sha256"], hashlib.sha256(have.data).hexdigest())


def cosine(x, y):
    xx, yy = math.fsum(a * a for a in x), math.fsum(b * b for b in y)
    if xx == 0 or yy == 0:
        return 1.0 if xx == yy else 0.0
    return math.fsum(a * b for a, b in zip(x, y)) / math.sqrt(xx * yy)


def check_rows(case, against, expected, lowest):
    """expected: {router tensor: its rows, one an expert}; `against` is where they are from."""
    for name, rows in expected.items():
        if name not in case.tensors:
            continue  # check_tensors() has said so
        for e, (want, have) in enumerate(zip(rows, case.tensors[name].rows())):
            c = cosine(want, have)
            case.worst[against] = min(case.worst.get(against, 1.0), c)
            case.expect_that(c >= lowest, f"{name} row {e}: cosine", f">= {lowest}", f"{c:.6f}")  # nan fails, too


def is_router(name):
    return name.endswith((".gate.weight", ".shared_expert_gate.weight"))


def check_reference(case):
    path = os.path.join(case.dir, "transformers.json")
    if os.path.exists(path):
        case.judge = "float32 transformers"
        ref = read_json(path)
        layers, experts, _ = ref["shape"]
        rows, routed = stored_tensor(ref).rows(), len(case.config["experts"])
        block = "block_sparse_moe" if case.model_type == "mixtral" else "mlp"
        expected = {}
        for layer in range(layers):
            mine = rows[layer * experts:(layer + 1) * experts]
            expected[f"model.layers.{layer}.{block}.gate.weight"] = mine[:routed]
            if len(mine) > routed:
                expected[f"model.layers.{layer}.mlp.shared_expert_gate.weight"] = mine[routed:]
        for name in expected:
            case.expect_that(name in case.tensors, name, "a router", "none")
        check_rows(case, case.judge, expected, REFERENCE_COSINE)
        case.judge = None


def moments(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def check_all_differ(case, what, samples):
    """Random samples must be independent of each other: none may come from another one's seed."""
    for (i, x), (j, y) in itertools.combinations(samples.items(), 2):
        n = min(len(x), len(y))
        c, limit = cosine(x[:n], y[:n]), min(6 / math.sqrt(n), 0.9)
        case.expect_that(abs(c) < limit, f"{what} of {i} and {j}: cosine", f"between +-{limit:.3f}", f"{c:.3f}")


def check_random_rows(case):
    rows = {f"{n} row {e}": r for n, t in case.tensors.items() if is_router(n) for e, r in enumerate(t.rows())}
    if not rows:
        return
    values = [v for r in rows.values() for v in r]
    width = len(next(iter(rows.values())))
    bound = 1 / math.sqrt(width)
    std = 1.0 if case.mode == "random" else bound / math.sqrt(3)
    mean, found_std = moments(values)
    # Five standard errors; a uniform distribution's standard deviation is known better than a normal one's.
    case.expect_that(abs(mean) <= 5 * std / math.sqrt(len(values)), "router rows: mean", "about 0", f"{mean:.4f}")
    case.expect_that(abs(found_std / std - 1) <= 5 / math.sqrt(2 * len(values)), "router rows: standard deviation",
                     f"about {std:.4f}", f"{found_std:.4f}")
    largest = max(abs(v) for v in values)
    if case.mode == "uniform_random":
        case.expect_that(0.9 * bound <= largest <= bound * (1 + 2**-8), "router rows: largest", f"just below {bound:.4f}", f"{largest:.4f}")
    else:
        case.expect_that(largest > 1.9, "router rows: largest (normal, not uniform)", "> 1.9", f"{largest:.4f}")
    check_all_differ(case, "router rows", rows)


def check_noise(case):
    """An expert with noise_scale is its source plus noise of that standard deviation, the sum times residual_scale in down_proj."""
    noises = {}
    for name, t in case.tensors.items():
        if not expert_of(name):
            continue
        kind, number, part = expert_of(name)
        expert = case.config[kind][number]
        if not expert.get("noise_scale"):
            continue
        source = read_safetensors(case.model_file(expert["source_model"], "model.safetensors"), case)
        layer = ".".join(name.split(".")[:3])
        clean = source[f"{layer}.mlp.{part}.weight"]
        case.expect(f"{name}: shape", clean.shape, t.shape)
        scale = expert.get("residual_scale", 1.0) if part == "down_proj" else 1.0
        noises[name] = [x / scale - y for x, y in zip(t.values(), clean.values())]
        mean, std = moments(noises[name])
        want = expert["noise_scale"]
        case.expect_that(abs(mean) <= want / 8 and abs(std / want - 1) <= 0.1, f"{name}: mean and standard deviation of the noise",
                         f"0 and {want}", f"{mean:.4f} and {std:.4f}")
    check_all_differ(case, "noise", noises)


def ropes(config):
    """(theta, scaling) in every spelling that the config has: a reader may use either, so all have to be right."""
    def reading(theta, scaling):
        s = {k: v for k, v in (scaling or {}).items() if k not in ("type", "rope_type", "rope_theta")}
        kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
        return {"theta": theta, "type": kind, **s}

    found = []
    new = config.get("rope_parameters")
    if new:
        found.append(reading(new.get("rope_theta"), new))
    if not new or "rope_theta" in config or config.get("rope_scaling"):
        default = 1e6 if config["model_type"] == "mixtral" else 1e4  # transformers' defaults
        found.append(reading(config.get("rope_theta", default), config.get("rope_scaling")))
    return found


def check_config(case, found, golden):
    expected = golden["config"]
    required = CONFIG_REQUIRED | {EXPERT_COUNT[expected["model_type"]]}
    for key in sorted(required - set(found)):
        case.expect(f"config.json: {key}", expected[key], "no such key")
    for key in sorted((set(found) & set(expected)) - CONFIG_IGNORED - {"head_dim"}):
        case.expect(f"config.json: {key}", expected[key], found[key])

    def head_dim(c):  # 0.1.4 writes null for a Mistral that does not say it, which means this
        return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    if required <= set(found):
        case.expect("config.json: head_dim", head_dim(expected), head_dim(found))


def check_rope_and_dtype(case, found):
    base = ropes(read_json(case.model_file(case.config["base_model"], "config.json")))[0]
    for r in ropes(found):
        case.expect("config.json: the base's rope", base, r)
    stored = sorted({t.dtype for t in case.tensors.values()})
    said = found.get("dtype", found.get("torch_dtype"))
    case.expect("config.json: dtype (or torch_dtype)", [DTYPE_NAMES.get(d, d) for d in stored], [said])


def check_files(case, out):
    base = case.config["base_model"]
    wanted = {f: case.model_file(base, f) for f in COPIED_FILES if os.path.exists(case.model_file(base, f))}
    wanted["mergekit_moe_config.yml"] = os.path.join(case.dir, "config.yaml")
    for name, source in wanted.items():
        path = os.path.join(out, name)
        if not os.path.exists(path):
            case.expect(name, "a file", "none")
        elif read_bytes(path) != read_bytes(source):
            case.expect(name, f"the bytes of {os.path.relpath(source, HERE)}", "others")


def run_moerge(case, binary, out, flags):
    command = [binary, "moe", os.path.join(case.dir, "config.yaml"), out, "--quiet", *flags]
    # The YAML's folder is the current one, too, so that relative paths mean the same to every reader.
    return subprocess.run(command, cwd=case.dir, capture_output=True, text=True, errors="replace", timeout=600)


def check_case(name, binary, temp):
    case = Case(name)
    found_sha256 = hashlib.sha256(read_bytes(os.path.join(case.dir, "config.yaml"))).hexdigest()
    if found_sha256 != case.config_sha256:
        case.fail("config.yaml is not the one that mergekit was run on: run make.py again")
        return case

    out = os.path.join(temp, "out")
    if "--allow-crimes" in case.flags:
        with tempfile.TemporaryDirectory(prefix="moerge-golden-") as refused:
            run = run_moerge(case, binary, os.path.join(refused, "out"), [f for f in case.flags if f != "--allow-crimes"])
            case.expect("exit status without --allow-crimes", 2, run.returncode)
            case.expect("left behind by a refused run", [], os.listdir(refused))
    run = run_moerge(case, binary, out, case.flags)
    if run.returncode != 0:
        case.fail(f"exit status: expected 0, found {run.returncode}; stderr:\n{run.stderr.rstrip()}")
        return case
    case.expect("folders written", ["out"], os.listdir(temp))

    case.tensors = read_checkpoint(out, case)
    if "--out-shard-size" in case.flags:
        case.expect_that(os.path.exists(os.path.join(out, "model.safetensors.index.json")), "--out-shard-size", "several shards", "one file")
    config = read_json(os.path.join(out, "config.json"))
    case.model_type = config["model_type"]
    for version in VERSIONS:
        golden = read_json(os.path.join(case.dir, f"mergekit-{version}.json"))
        if "tensors" not in golden:
            continue  # this mergekit failed, see its "error"
        case.judge = f"mergekit {version}"
        check_tensors(case, golden, version)
        check_config(case, config, golden)
        if not golden["gates_not_judged"]:
            lowest = CHEAP_EMBED_COSINE if case.mode == "cheap_embed" else MERGEKIT_COSINE
            check_rows(case, case.judge, {n: stored_tensor(g).rows() for n, g in golden["gates"].items()}, lowest)
    case.judge = None
    check_reference(case)
    if case.mode in ("random", "uniform_random"):
        check_random_rows(case)
    check_noise(case)
    check_rope_and_dtype(case, config)
    check_files(case, out)
    return case


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary", metavar="MOERGE_BINARY")
    ap.add_argument("--case", action="append", help="only this case; may be given again")
    args = ap.parse_args()
    binary = os.path.abspath(args.binary)
    if not os.access(binary, os.X_OK):
        sys.exit(f"{args.binary}: not an executable file")
    names = sorted(os.listdir(os.path.join(HERE, "cases")))
    for name in args.case or []:
        if name not in names:
            sys.exit(f"no case {name}; there are: {' '.join(names)}")

    failed = 0
    selected = args.case or names
    for name in selected:
        with tempfile.TemporaryDirectory(prefix="moerge-golden-") as temp:
            try:
                case = check_case(name, binary, temp)
                wrong = case.failures()
            except Exception as e:  # an output so broken that it cannot be read must not hide the other cases
                wrong = [f"{type(e).__name__}: {e}"]
        if wrong:
            failed += 1
            print(f"FAIL {name}")
            for text in wrong[:20]:
                print(f"  {text}")
            if len(wrong) > 20:
                print(f"  ... and {len(wrong) - 20} more")
        else:
            cosines = ", ".join(f"{c:.6f} with {against}" for against, c in case.worst.items())
            gates = f"worst gate cosine {cosines}" if cosines else "random gates"
            print(f"ok {name} ({len(case.tensors)} tensors, {gates})", flush=True)
    print(f"{len(selected) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
