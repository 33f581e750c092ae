#!/usr/bin/env python3
"""What mergekit makes of models with different tokenizers: the result's tokens, each model's embeddings in its vocabulary, and what texts become.

usage: PYTHON_WITH_MERGEKIT tokenizers.py [--write] tests/golden/merge_tokenizers.json

PYTHON_WITH_MERGEKIT has mergekit 0.1.5, transformers and torch. Tiny models are merged by mergekit's own run_merge() with every setting
of a tokenizer; the tensors that its tasks hand to the merge method are kept. --write writes them, with the models, for
merge/embeddings_test.cpp; without it they are compared with the file. mergekit goes through models and tokens in the order of Python's
sets and hash tables, which differs from run to run; here models come in the document's order and tokens by id.
"""
import argparse, json, os, random, sys, tempfile

sys.path.pop(0)  # this folder: the library of this file's name is meant
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")
import torch, yaml
from safetensors.torch import save_file

HIDDEN = 4
TEXTS = ["abc de fgh ij", "<|im_start|>ab ij<|im_end|> a b", "deab[PAD]</s> de fgfgh", "<tool>ab<tool> abc  a", "hello </s> fg\nab",
         "<s>abcab  <|im_end|>de", ""]


def added(id, content, special=True, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special, **flags}


def bpe(tokens, merges, extra=(), spaces="byte_level", config=None, special=2, more=()):
    """Tokens by id, of which the first `special` are special; `extra` are added tokens behind them, `more` among them."""
    piece = spaces == "pieces"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(i, tokens[i]) for i in range(special)] + list(more) + [added(len(tokens) + i, *(e if isinstance(e, tuple) else (e,))) for i, e in enumerate(extra)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]} if piece else None,
        "pre_tokenizer": None if piece else byte_level,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [tokens.index("<s>")], "tokens": ["<s>"]}}} if piece else None,
        "decoder": None if piece else byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>" if piece else None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": piece, "byte_fallback": False, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    }
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **(config or {})}


def unigram(pieces, extra=()):
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")] + [added(len(pieces) + i, e) for i, e in enumerate(extra)],
                 "normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                 "post_processor": None, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                 "model": {"type": "Unigram", "unk_id": 0, "vocab": [[p, -float(i)] for i, p in enumerate(pieces)], "byte_fallback": False}}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


CHAT = ["<|im_start|>", "<|im_end|>"]
DECODER = {"added_tokens_decoder": {str(i): {key: value for key, value in added(i, t).items() if key != "id"} for i, t in
                                    [(0, "<s>"), (1, "</s>"), (20, "<|im_start|>"), (21, "<|im_end|>")]}}
# name: (tokenizer, rows of the embeddings, type, tied)
MODELS = {
    "base": (bpe(["<s>", "</s>", *"abcdefghlo", "Ġ", "Ċ", "ab", "abc", "Ġa", "de"], ["a b", "ab c", "Ġ a", "d e"]), 18, "bfloat16", False),
    "chat": (bpe(["<s>", "</s>", "Ġ", *"hgfedcbaij", "ab", "Ġa", "fg", "fgh", "ij", "Ċ", "o"], ["a b", "Ġ a", "f g", "fg h", "i j"], CHAT, config=DECODER), 22, "bfloat16", False),
    "code": (bpe(["<s>", "</s>", *"abcdefghij", "Ġ", "de", "fg", "<|im_start|>"], ["d e", "f g"], ["[PAD]"], config={"pad_token": "[PAD]"},
                 more=[added(13, "de", False, lstrip=True), added(15, "<|im_start|>", True, rstrip=True)]), 16, "bfloat16", False),
    "wide": (bpe(["<s>", "</s>", *"abcdefghlo", "Ġ", "Ċ", "ab", "abc", "Ġa", "de"], ["a b", "ab c", "Ġ a", "d e"], ["<|im_end|>"]), 24, "float16", True),
    "twin": (bpe(["<s>", "</s>", *"abcdefghlo", "Ġ", "Ċ", "ab", "abc", "Ġa", "de"], ["a b", "ab c", "Ġ a", "d e"]), 18, "bfloat16", False),
    "long": (bpe(["<s>", "</s>", *"abcdefghlo", "Ġ", "Ċ", "ab", "abc", "Ġa", "de", "fg", "fgh"], ["a b", "ab c", "Ġ a", "d e", "f g", "fg h"], CHAT), 18, "float32", False),
    "short": (bpe(["<s>", "</s>", *"abcdefghlo", "Ġ", "Ċ", "ab", "abc", "Ġa", "de"], ["a b", "ab c", "Ġ a", "d e"], CHAT), 19, "float32", False),
    "pieces": (bpe(["<unk>", "<s>", "</s>", "▁", *"abcdefghlo", "▁a", "ab", "▁ab"], ["▁ a", "a b", "▁ ab"], spaces="pieces", special=3,
                   config={"unk_token": "<unk>"}), 17, "bfloat16", False),
    "more_pieces": (bpe(["<unk>", "<s>", "</s>", "▁", *"olhgfedcba", "ab", "abc", "▁abc", "\n"], ["a b", "ab c", "▁ abc"], ["<|im_start|>"], spaces="pieces", special=3,
                        config={"unk_token": "<unk>"}), 19, "bfloat16", False),
    "unigram": (unigram(["<unk>", "<s>", "</s>", "▁a", "▁", *"abcdefghlo", "ab", "▁abc"]), 17, "float32", False),
    "more_unigram": (unigram(["<unk>", "<s>", "</s>", "▁", *"abcdefghlo", "de", "▁fg"], CHAT), 18, "float32", False),
}
ALL = "models: [{model: base}, {model: chat}, {model: code}]"
CASES = {
    "union of two": "dtype: bfloat16\nbase_model: base\nmodels: [{model: base}, {model: chat}]\ntokenizer_source: union",
    "union of three": f"dtype: bfloat16\nbase_model: base\n{ALL}\ntokenizer_source: union",
    "union, the base last": "dtype: bfloat16\nbase_model: chat\nmodels: [{model: code}, {model: base}]\ntokenizer_source: union",
    "union without a base, bfloat16": f"dtype: bfloat16\n{ALL}\ntokenizer_source: union",
    "union without a base, float16": f"dtype: float16\n{ALL}\ntokenizer_source: union",
    "union without a base, float32": f"dtype: float32\n{ALL}\ntokenizer_source: union",
    **{f"mean of three, {dtype}": f"dtype: {dtype}\nmodels: [{{model: base}}, {{model: wide}}, {{model: twin}}, {{model: chat}}]\ntokenizer_source: union"
       for dtype in ("bfloat16", "float16", "float32")},
    "base": f"dtype: bfloat16\nbase_model: base\n{ALL}\ntokenizer_source: base",
    "base with fewer tokens": "dtype: float32\nbase_model: chat\nmodels: [{model: base}, {model: chat}]\ntokenizer: {source: base}",
    "a model's": "dtype: bfloat16\nbase_model: base\nmodels: [{model: base}, {model: chat}]\ntokenizer_source: chat",
    "forced": f"dtype: bfloat16\nbase_model: base\n{ALL}\ntokenizer: {{source: union, tokens: {{ab: {{source: chat, force: true}}, <|im_start|>: {{source: code, force: true}}, <|im_end|>: {{source: chat}}}}}}",
    "zeros": f"dtype: float16\nbase_model: base\n{ALL}\ntokenizer: {{source: union, tokens: {{<|im_end|>: {{source: {{kind: zero}}}}, a: {{source: {{kind: zero}}, force: true}}, ij: {{source: {{kind: zero}}}}}}}}",
    "other tokens' rows": f"dtype: bfloat16\nbase_model: base\n{ALL}\ntokenizer: {{source: union, tokens: {{<tool>: {{source: {{kind: model_token, model: chat, token: <|im_end|>}}}}, "
                          "<number>: {source: {kind: model_token, model: base, token_id: 3}}, b: {source: {kind: model_token, model: code, token: fg}, force: true}}}",
    "padded, bfloat16": "dtype: bfloat16\nbase_model: base\nmodels: [{model: base}, {model: chat}]\ntokenizer: {source: union, pad_to_multiple_of: 16}",
    "padded, float16": "dtype: float16\nbase_model: base\nmodels: [{model: base}, {model: chat}]\ntokenizer: {source: union, pad_to_multiple_of: 9}",
    "padded, float32": "dtype: float32\nbase_model: base\nmodels: [{model: base}, {model: chat}]\ntokenizer: {source: base, pad_to_multiple_of: 7}",
    "tied": "dtype: bfloat16\nbase_model: base\nmodels: [{model: base}, {model: wide}]\ntokenizer_source: union",
    "tied alone": "dtype: float16\nbase_model: wide\nmodels: [{model: wide}]\ntokenizer_source: base",
    "wide base": "dtype: float32\nbase_model: wide\nmodels: [{model: wide}, {model: chat}]\ntokenizer_source: union",
    "longer than its embeddings": "dtype: float32\nbase_model: short\nmodels: [{model: short}, {model: base}]\ntokenizer_source: base",
    "longer than its embeddings, union": "dtype: float32\nbase_model: short\nmodels: [{model: short}, {model: chat}]\ntokenizer_source: union",
    "one longer than its embeddings, union": "dtype: float32\nbase_model: base\nmodels: [{model: base}, {model: long}]\ntokenizer_source: union",
    "padding token without a row, union": "dtype: bfloat16\nbase_model: code\nmodels: [{model: code}, {model: chat}]\ntokenizer_source: union",
    "pieces": "dtype: bfloat16\nbase_model: pieces\nmodels: [{model: pieces}, {model: more_pieces}]\ntokenizer_source: union",
    "pieces and byte level": "dtype: bfloat16\nbase_model: pieces\nmodels: [{model: pieces}, {model: chat}]\ntokenizer_source: union",
    "unigram": "dtype: float32\nbase_model: unigram\nmodels: [{model: unigram}, {model: more_unigram}]\ntokenizer_source: union",
}


def make_models(folder):
    """Writes them; what a test needs to write them again."""
    draw, out = random.Random(5), {}
    for name, ((tokenizer, tokenizer_config), rows, dtype, tied) in MODELS.items():
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": 4, "num_hidden_layers": 1,
                  "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": rows, "torch_dtype": dtype, "tie_word_embeddings": tied}
        values = {key: [[draw.randint(-127, 127) / 2 ** draw.randint(6, 9) for _ in range(HIDDEN)] for _ in range(rows)]
                  for key in ["model.embed_tokens.weight"] + ["lm_head.weight"] * (not tied)}
        tensors = {key: torch.tensor(value) for key, value in values.items()} | {f"model.layers.0.{part}.weight": torch.zeros(4, 4) for part in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}
        tensors |= {f"model.{part}.weight": torch.ones(4) for part in ("norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm")}
        path = os.path.join(folder, name)
        os.makedirs(path)
        for file, content in (("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", tokenizer_config)):
            with open(os.path.join(path, file), "w") as handle:
                json.dump(content, handle)
        save_file({key: value.to(getattr(torch, dtype)) for key, value in tensors.items()}, os.path.join(path, "model.safetensors"), {"format": "pt"})
        out[name] = {"config": config, "tokenizer": tokenizer, "tokenizer_config": tokenizer_config, "tensors": values}
    return out


def settle_orders():
    """Models in the document's order, tokens by id."""
    from mergekit.config import MergeConfiguration
    from transformers import PreTrainedTokenizerFast

    orders = {}

    def referenced_models(self):
        if not self.models:  # planned: they have become slices
            return orders[id(self)]
        models = [self.base_model] if self.base_model else []
        for item in self.models:
            models += [item.model] if item.model not in models else []
        orders[id(self)] = models
        return models

    MergeConfiguration.referenced_models = referenced_models
    get_vocab = PreTrainedTokenizerFast.get_vocab
    PreTrainedTokenizerFast.get_vocab = lambda self: dict(sorted(get_vocab(self).items(), key=lambda item: item[1]))


def run(document, out):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge
    from mergekit.tokenizer.embed import PermutedVocabulary
    from transformers import AutoTokenizer
    tensors, execute = {}, PermutedVocabulary.execute

    def keep(self, **arguments):
        result = execute(self, **arguments)
        name = next(iter(self.gather_tensors.weight_info.values())).name
        tensors[name] = {str(model): tensor.float().tolist() for model, tensor in result.items()}
        return result

    PermutedVocabulary.execute = keep
    try:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load("merge_method: linear\nparameters: {weight: 1}\n" + document)), out, MergeOptions(quiet=True, write_model_card=False))
    finally:
        PermutedVocabulary.execute = execute
    tokenizer = AutoTokenizer.from_pretrained(out)
    with open(os.path.join(out, "config.json")) as handle:
        rows = json.load(handle)["vocab_size"]
    flags = {id: [token.single_word, token.lstrip, token.rstrip, token.normalized, token.special] for id, token in sorted(tokenizer.added_tokens_decoder.items())}
    return {"rows": rows, "tokens": list(tokenizer.get_vocab()), "ids": list(tokenizer.get_vocab().values()), "added": flags, "tensors": tensors,
            "encoded": [tokenizer.encode(text, add_special_tokens=special) for text in TEXTS for special in (False, True)]}


def make():
    settle_orders()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        models, cases = make_models(folder), []
        for name, document in CASES.items():
            try:
                result = run(document, os.path.join(folder, "out", name))
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"[:300].replace(folder, "")}
            cases.append({"name": name, "yaml": document, **result})
    return {"from": "mergekit 0.1.5, tests/merge/tokenizers.py --write", "texts": TEXTS, "models": models, "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    file = os.path.abspath(a.file)
    made = json.loads(json.dumps(make()))
    for case in made["cases"]:
        print(f"      {case['name']}: {case.get('error') or str(case['rows']) + ' rows'}")
    if a.write:
        with open(file, "w") as handle:
            handle.write(json.dumps({key: value for key, value in made.items() if key != "cases"}, separators=(",", ":"), ensure_ascii=False)[:-1] + ',\n"cases":[\n' +
                         ",\n".join(json.dumps(case, separators=(",", ":"), ensure_ascii=False) for case in made["cases"]) + "\n]}\n")
        return 0
    with open(file) as handle:
        known = json.load(handle)
    failed = [case["name"] for case, before in zip(made["cases"], known["cases"], strict=True) if case != before]
    print(f"{len(made['cases']) - len(failed)} passed, {len(failed)} failed {failed}")
    return bool(failed) or made["models"] != known["models"]


if __name__ == "__main__":
    sys.exit(main())
