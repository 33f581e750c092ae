"""Tiny tokenizers, made with Python's standard library: some hundred tokens each, one for every way in which
llama.cpp's converter reads a vocabulary.

Every function of KINDS returns a Vocabulary: the files that lie beside the weights and the number of tokens.
"""
import collections, json, re, struct

TEXT = """
The baker opened the shop before the sun was up, and the smell of the bread went down the street to the harbour.
There were three ships in the harbour that morning; the oldest of them had not been to sea since the winter.
The children went there after school to see whether the paint had come off the name, and what the letters were.
Nobody had told them that the other ships would be gone by then, and that the water would be as still as the glass.
""".strip().lower()

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + r"\p{N}" + REST
# The letters of deepseek-llm's second pattern, escaped: an editor that normalises text would change some of them.
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5À-ÖØ-öø-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f"
    "\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-"
    "\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-"
    "\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
    "\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183"
    "\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-"
    "\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-"
    "\U0001e943")
DEEPSEEK_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

PLAIN_FLAGS = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)


class Vocabulary:
    """`files`: {name: text or bytes}; `size`: how many tokens they hold, added ones included; `pre`: llama.cpp's name
    for the pre-tokenizer. llama.cpp itself knows a vocabulary by a hash over the tokens that it gives for a certain
    text, so it refuses all of these, and make.py puts the name in."""

    def __init__(self, files, size, pre):
        self.files, self.size, self.pre = files, size, pre


def added(content, special=True, **flags):
    return {"content": content, **PLAIN_FLAGS, "special": special, **flags}


def train_merges(words, count):
    """Plain byte-pair encoding: `words` are tuples of symbols. The most frequent pair first, ties by spelling."""
    words = collections.Counter(words)
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        merged = collections.Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i:i + 2] == best:
                    out.append(word[i] + word[i + 1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] += n
        words = merged
    return merges


def byte_alphabet():
    """GPT-2's letter for each byte, in the order of the bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 0
    for b in range(256):
        letters[b] = chr(b) if b in visible else chr(256 + extra)
        extra += b not in visible
    return [letters[b] for b in range(256)]


def byte_level_merges(count=40):
    letters = byte_alphabet()
    return train_merges([tuple(letters[b] for b in w.encode()) for w in re.findall(r" ?\w+|[^\w\s]", TEXT)], count)


def dumps(data):
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"


def tokenizer_json(model, added_tokens, normalizer=None, pre_tokenizer=None, post_processor=None, decoder=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": decoder, "model": model}


def bpe(vocab, merges, string_merges=False, **more):
    """A model. Its merges are written "a b" as tokenizers did before 0.20, or ["a", "b"]."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **more}
    return {**model, "vocab": vocab, "merges": [" ".join(m) if string_merges else list(m) for m in merges]}


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def byte_level(add_prefix_space=False, trim_offsets=True, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets,
            "use_regex": use_regex}


def template(single, pair, ids):
    """A TemplateProcessing: "A" and "B" are the texts, all else special tokens."""
    def parts(names):
        return [{"Sequence": {"id": n, "type_id": 0}} if n in ("A", "B") else {"SpecialToken": {"id": n, "type_id": 0}}
                for n in names]
    special = {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in sorted({*single, *pair} - {"A", "B"})}
    return {"type": "TemplateProcessing", "single": parts(single), "pair": parts(pair), "special_tokens": special}


def tokenizer_config(added_tokens, tokenizer_class="PreTrainedTokenizerFast", **more):
    """As transformers writes it; a value of None leaves the key out."""
    config = {
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added_tokens},
        "clean_up_tokenization_spaces": False, "model_max_length": 1024, "tokenizer_class": tokenizer_class, **more}
    return {k: v for k, v in config.items() if v is not None}


def as_dicts(names):
    """Special tokens of tokenizer_config.json in the long spelling."""
    return {k: {"__type": "AddedToken", "content": v, **PLAIN_FLAGS} for k, v in names.items()}


def pack(pre, tokenizer, config, size, more_files=None):
    files = {"tokenizer.json": dumps(tokenizer), "tokenizer_config.json": dumps(config), **(more_files or {})}
    return Vocabulary({k: v for k, v in files.items() if v is not None}, size, pre)


def byte_level_vocabulary(first=(), last=(), extra_pieces=(), hole=False):
    """(ids by token, merges, added tokens with ids): `first` and `last` are added tokens before and after the bytes.
    Those before are in the model's own vocabulary too, as trainers write them; those after are not, as in Llama 3."""
    merges = byte_level_merges()
    pieces = [t["content"] for t in first] + byte_alphabet() + ["".join(m) for m in merges] + list(extra_pieces)
    ids = {p: i for i, p in enumerate(pieces)}
    if hole:  # one id that no token has
        ids = {p: i + (i >= 290) for p, i in ids.items()}
    end = max(ids.values()) + 1
    tokens = [{"id": ids[t["content"]], **t} for t in first] + [{"id": end + i, **t} for i, t in enumerate(last)]
    return ids, merges, tokens


ENDS = [added("<unk>"), added("<s>"), added("</s>")]
ENDS_NAMES = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gpt2(first=ENDS, last=(), config=None, add_prefix_space=False, string_merges=True, hole=False,
         post_processor="ByteLevel", extra_pieces=(), extra_merges=()):
    """Byte-level BPE with GPT-2's pattern inside ByteLevel. `config` are further keys of tokenizer_config.json;
    `post_processor` may be a template's two texts."""
    ids, merges, tokens = byte_level_vocabulary(first, last, extra_pieces, hole)
    if post_processor == "ByteLevel":
        post_processor = byte_level()
    elif post_processor:
        single, pair = post_processor
        post_processor = template(single.split(), pair.split(), {t["content"]: t["id"] for t in tokens})
    data = tokenizer_json(bpe(ids, [*merges, *extra_merges], string_merges), tokens, None,
                          byte_level(add_prefix_space=add_prefix_space), post_processor, byte_level())
    config = {**ENDS_NAMES, **(config or {})}
    return pack("gpt-2", data, tokenizer_config(tokens, **config), max(ids.values()) + 1 + len(last))


LLAMA3_LAST = [added("<|begin_of_text|>"), added("<|end_of_text|>"), added("<|reserved_0|>"), added("<|eot_id|>")]


def llama3():
    """Split and a ByteLevel without a pattern, special tokens after the vocabulary, ignore_merges, a template's BOS."""
    ids, merges, tokens = byte_level_vocabulary((), LLAMA3_LAST)
    by_name = {t["content"]: t["id"] for t in tokens}
    bos = "<|begin_of_text|>"
    post = {"type": "Sequence", "processors": [
        byte_level(trim_offsets=False), template([bos, "A"], [bos, "A", bos, "B"], by_name)]}
    data = tokenizer_json(bpe(ids, merges, ignore_merges=True), tokens, None,
                          sequence(split(LLAMA3), byte_level(use_regex=False)), post, byte_level())
    config = tokenizer_config(tokens, bos_token=bos, eos_token="<|eot_id|>")
    return pack("llama-bpe", data, config, len(ids) + len(tokens))


QWEN_LAST = [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>"), added("<tool_call>", special=False),
             added("</tool_call>", special=False), added("<|fim_pad|>", special=False)]


def qwen2(config=None, last=QWEN_LAST, tokenizer_class="Qwen2Tokenizer"):
    """NFC, Qwen's pattern, ByteLevel; no BOS."""
    ids, merges, tokens = byte_level_vocabulary((), last)
    model = bpe(ids, merges, string_merges=True, continuing_subword_prefix="", end_of_word_suffix="")
    plain = byte_level(use_regex=False)
    data = tokenizer_json(model, tokens, {"type": "NFC"}, sequence(split(QWEN2), plain), plain, plain)
    config = {"add_bos_token": False, "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>",
              "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
              "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], **(config or {})}
    return pack("qwen2", data, tokenizer_config(tokens, tokenizer_class, **config), len(ids) + len(tokens))


def smollm(tokenizer_class="PreTrainedTokenizerFast"):
    """Digits one by one, then ByteLevel with GPT-2's pattern."""
    first = [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>"), added("<repo_name>")]
    ids, merges, tokens = byte_level_vocabulary(first)
    data = tokenizer_json(bpe(ids, merges, string_merges=True), tokens, None,
                          sequence({"type": "Digits", "individual_digits": True}, byte_level()), None, byte_level(True))
    config = tokenizer_config(tokens, tokenizer_class, bos_token="<|im_start|>", eos_token="<|im_end|>",
                              unk_token="<|endoftext|>", pad_token="<|im_end|>", vocab_size=len(ids))
    return pack("smollm", data, config, len(ids))


def deepseek(kind, config=None, tokenizer_class="LlamaTokenizerFast"):
    """deepseek-llm's or deepseek-coder's row of patterns. Special tokens have a fullwidth bar and U+2581 in them."""
    bar = "\uff5c"
    last = [added(f"<{bar}begin\u2581of\u2581sentence{bar}>", normalized=True),
            added(f"<{bar}end\u2581of\u2581sentence{bar}>", normalized=True),
            added(f"<{bar}fim\u2581hole{bar}>", special=False)]
    if kind == "coder":
        last += [added("<pad>", special=False), added("<|EOT|>", special=False, normalized=True)]
        splits = [split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK)]
    else:
        splits = [split(rf"\s?[{DEEPSEEK_LETTERS}]+"), split(rf"\s?[{DEEPSEEK_PUNCTUATION}]+"), split(r"\s+$"),
                  split(CJK)]
    ids, merges, tokens = byte_level_vocabulary((), last)
    by_name = {t["content"]: t["id"] for t in tokens}
    bos, eos = last[0]["content"], last[1]["content"]
    data = tokenizer_json(
        bpe(ids, merges, string_merges=True), tokens, {"type": "Sequence", "normalizers": []},
        sequence(split(r"[\r\n]"), *splits, {"type": "Digits", "individual_digits": True}, byte_level(use_regex=False)),
        byte_level(trim_offsets=False), byte_level())
    if kind == "llm":
        data["post_processor"] = template([bos, "A"], [bos, "A", bos, "B"], by_name)
    token = dict(__type="AddedToken", single_word=False, lstrip=False, rstrip=False, normalized=True)
    config = {"add_bos_token": True, "add_eos_token": False, "bos_token": {**token, "content": bos},
              "eos_token": {**token, "content": eos}, "pad_token": {**token, "content": eos}, "legacy": True,
              "sp_model_kwargs": {}, "added_tokens_decoder": None, **(config or {})}
    return pack(f"deepseek-{kind}", data, tokenizer_config(tokens, tokenizer_class, **config), len(ids) + len(tokens))


# -------------------------------------------------------------------------------------------------------- SentencePiece

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def varint(n):
    out = bytearray()
    while True:
        out.append(n & 127 | (128 if n > 127 else 0))
        n >>= 7
        if not n:
            return bytes(out)


def field(number, value):
    """One field of a protobuf message: an int, a float (32 bits), or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece_model(pieces):
    """tokenizer.model: `pieces` are (text, score, type)."""
    def message(text, score, kind):
        return field(1, text.encode()) + field(2, score) + (field(3, kind) if kind != NORMAL else b"")
    model = b"".join(field(1, message(*p)) for p in pieces)
    trainer = field(3, 2) + field(4, len(pieces)) + field(35, 1)  # BPE, vocabulary size, byte_fallback
    # Its name, a space in front of the text, spaces are kept, and written as U+2581.
    normalizer = field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1)
    return model + field(2, trainer) + field(3, normalizer)


def metaspace_pieces():
    """(pieces with score and type, merges) of a byte-fallback BPE as Llama 2 has it."""
    words = [tuple("\u2581" + w) for w in TEXT.split()]
    merges = train_merges(words, 40)
    letters = sorted({c for w in words for c in w})
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    pieces += [(p, -float(i), NORMAL) for i, p in enumerate(["".join(m) for m in merges] + letters)]
    return pieces, merges


def metaspace_tokenizer_json(pieces, merges, tokens, string_merges=True):
    """The tokenizer.json that transformers converts such a tokenizer.model to."""
    ids = {p: i for i, (p, _, _) in enumerate(pieces)}
    normalizer = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
    decoder = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    model = bpe(ids, merges, string_merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    post = template(["<s>", "A"], ["<s>", "A", "<s>", "B"], ids)
    return tokenizer_json(model, tokens, normalizer, None, post, decoder)


def metaspace_tokens(pieces, last):
    """The added tokens: the first three pieces, and those that follow after all pieces."""
    tokens = [{"id": i, **added(pieces[i][0])} for i in range(3)]
    return tokens + [{"id": len(pieces) + i, **t} for i, t in enumerate(last)]


def sentencepiece(config=None, more_pieces=(), last=(), added_json=None, with_json=True):
    """tokenizer.model, with the tokenizer.json of the same vocabulary beside it."""
    pieces, merges = metaspace_pieces()
    pieces += list(more_pieces)
    tokens = metaspace_tokens(pieces, last)
    data = metaspace_tokenizer_json(pieces, merges, tokens)
    config = tokenizer_config(tokens, "LlamaTokenizer", **{
        "add_bos_token": True, "add_eos_token": False, "legacy": False, **ENDS_NAMES, **(config or {})})
    more = {"tokenizer.model": sentencepiece_model(pieces)}
    if added_json is not None:
        more["added_tokens.json"] = json.dumps(added_json, ensure_ascii=False, indent=2) + "\n"
    if not with_json:
        more["tokenizer.json"] = None
    return pack("default", data, config, len(pieces) + len(last), more)


def llama_hf(config=None, last=(), string_merges=False, tokenizer_class="LlamaTokenizerFast"):
    """The same vocabulary in tokenizer.json alone."""
    pieces, merges = metaspace_pieces()
    tokens = metaspace_tokens(pieces, last)
    data = metaspace_tokenizer_json(pieces, merges, tokens, string_merges)
    config = tokenizer_config(tokens, tokenizer_class, **{**ENDS_NAMES, **(config or {})})
    return pack("default", data, config, len(pieces) + len(last))


KINDS = dict(gpt2=gpt2, llama3=llama3, qwen2=qwen2, smollm=smollm, deepseek=deepseek, sentencepiece=sentencepiece,
             llama_hf=llama_hf)
