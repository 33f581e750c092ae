"""What make_merges.py records of an output folder and check_merges.py looks at in the same way. Python's standard library only."""
import base64, json, math, os, struct

# Beside the weights and config.json.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")
# Of config.json. The rest is other spellings, or what a newer transformers adds of its own.
CONFIG_KEYS = ("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "bos_token_id",
               "eos_token_id")
BITS = {"F32": 23, "BF16": 7, "F16": 10}


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_config(folder):
    """The keys that matter; dtype and rope_theta whatever they are called."""
    config = read_json(os.path.join(folder, "config.json"))
    rope = config.get("rope_parameters") or config
    return {**{key: config.get(key) for key in CONFIG_KEYS}, "dtype": config.get("dtype", config.get("torch_dtype")),
            "rope_theta": rope.get("rope_theta")}


def read_tokenizer(folder):
    """"tokens": id by text; "special": those that are; "merges": of BPE; "chat_template": None without one."""
    tokenizer, settings = (read_json(os.path.join(folder, name)) for name in ("tokenizer.json", "tokenizer_config.json"))
    added = {row["content"]: row for row in tokenizer["added_tokens"]}
    tokens = {**tokenizer["model"]["vocab"], **{text: row["id"] for text, row in added.items()}}
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in tokenizer["model"].get("merges", [])]
    jinja = os.path.join(folder, "chat_template.jinja")
    template = settings.get("chat_template")
    if os.path.exists(jinja):
        with open(jinja, encoding="utf-8") as f:
            template = f.read()
    return {"tokens": dict(sorted(tokens.items(), key=lambda item: item[1])), "special": sorted(t for t in added if added[t]["special"]),
            "merges": merges, "chat_template": template, "bos_token": named(settings.get("bos_token")),
            "eos_token": named(settings.get("eos_token"))}


def named(token):
    return token.get("content") if isinstance(token, dict) else token


def unit(value, dtype):
    """Of the last place of a value."""
    smallest = -14 if dtype == "F16" else -126
    return 2.0 ** (max(math.frexp(abs(value))[1] - 1, smallest) - BITS[dtype])


class Sample:
    """What several runs of a method that draws make of the base: of each value the mean change and its deviation over the runs, and by
    run how many values change, and how many of these grow."""
    CHECKED = 12  # runs that are compared with a recorded sample
    FAR, FARTHEST = 6, 10  # deviations: of a number that is about normal; of one value, which may change in few runs only
    SPREAD = 0.15  # relative, of a deviation that is taken over all values

    def __init__(self, base):
        self.names = sorted(base)
        self.base = [value for name in self.names for value in base[name].values()]
        self.dtype = base[self.names[0]].dtype
        self.runs, self.sums, self.squares = 0, [0.0] * len(self.base), [0.0] * len(self.base)
        self.changed, self.grown = [], []

    def add(self, values):
        """One run: of every tensor the values."""
        changes = [new - old for new, old in zip((v for name in self.names for v in values[name]), self.base, strict=True)]
        changed = sum(c != 0 for c in changes)
        self.changed.append(changed / len(changes))
        self.grown.append(sum(c > 0 for c in changes) / max(changed, 1))
        self.runs += 1
        for i, c in enumerate(changes):
            self.sums[i] += c
            self.squares[i] += c * c

    def moments(self):
        """(mean, variance) of each value's change"""
        means = [s / self.runs for s in self.sums]
        return means, [max(q / self.runs - m * m, 0.0) * self.runs / (self.runs - 1) for q, m in zip(self.squares, means)]

    def stored(self):
        means, variances = self.moments()
        return {"runs": self.runs, "mean": pack(means), "deviation": pack([math.sqrt(v) for v in variances]),
                "changed": moments(self.changed), "grown": moments(self.grown)}

    def compare(self, stored):
        """(what is wrong, a line for the log): is this sample, of few runs, from the distribution that `stored` is a large sample of?"""
        wrong, notes = [], []

        def expect(ok, what, expected, found):
            notes.append(f"{what} {found}")
            if not ok:
                wrong.append(f"{what}: expected {expected}, found {found}")

        for key, found in (("changed", self.changed), ("grown", self.grown)):
            mean, deviation = stored[key]
            error = max(deviation, 1e-4) * math.sqrt(1 / self.runs + 1 / stored["runs"])
            here = sum(found) / self.runs
            expect(abs(here - mean) <= self.FAR * error, f"share of values {key}", f"{mean:.4f} +- {self.FAR * error:.4f}", f"{here:.4f}")
        means, variances = self.moments()
        their_means, their_deviations = unpack(stored["mean"]), unpack(stored["deviation"])
        moving, worst, square, still = 0, 0.0, 0.0, 0
        share = math.sqrt(1 / self.runs + 1 / stored["runs"])
        for value, mean, their_mean, deviation in zip(self.base, means, their_means, their_deviations, strict=True):
            step = unit(value, self.dtype)
            if deviation <= step:  # no wider than the rounding of the sum
                still += abs(mean - their_mean) > 2 * step
                continue
            z = (mean - their_mean) / (deviation * share)
            moving, square, worst = moving + 1, square + z * z, max(worst, abs(z))
        spread = math.sqrt(square / moving) if moving else math.nan
        expect(abs(spread - 1) <= self.SPREAD, "difference of the means, in standard errors, over all values", f"1 +- {self.SPREAD}",
               f"{spread:.3f}")
        expect(worst <= self.FARTHEST, "largest of these differences", f"<= {self.FARTHEST}", f"{worst:.2f}")
        expect(still == 0, "values that nothing is drawn for, and that differ", 0, still)
        wide = math.sqrt(sum(variances) / sum(d * d for d in their_deviations))
        expect(abs(wide - 1) <= self.SPREAD, "deviation of the changes over the runs, of mergekit's", f"1 +- {self.SPREAD}", f"{wide:.3f}")
        return wrong, ", ".join(notes)


def moments(values):
    mean = math.fsum(values) / len(values)
    return [mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))]


def pack(values):
    """As float16 times a power of two, base64."""
    scale = 2.0**10
    return base64.b64encode(struct.pack(f"<{len(values)}e", *(v * scale for v in values))).decode()


def unpack(text):
    data = base64.b64decode(text)
    return [v / 2.0**10 for v in struct.unpack(f"<{len(data) // 2}e", data)]
