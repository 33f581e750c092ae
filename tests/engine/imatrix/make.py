#!/usr/bin/env python3
"""Makes what moerge/engine/imatrix_test.cpp, moerge/export/importance_test.cpp and tests/cli/test_imatrix.py compare with.

usage: python make.py MOERGE LLAMA_CPP LLAMA_IMATRIX     (needs torch and transformers 5, for the converter)

MOERGE is the program, LLAMA_CPP the pinned source tree, LLAMA_IMATRIX its tool, built. Writes beside itself:
  model.gguf       a random mixture of 3 experts, 2 for each token, in float32, by `moerge moe` and convert_hf_to_gguf.py
  reference.gguf   what llama-imatrix measures with it on text.txt in chunks of 64 tokens
  reference.dat    the same in the legacy format
Tokens are bytes, and one pair of them: a BPE without any merge is refused by llama.cpp.
"""
import json, os, subprocess, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "cli"))
sys.dont_write_bytecode = True
from tiny_models import tiny_model

YAML = """\
base_model: a
gate_mode: random
experts:
  - {source_model: a, positive_prompts: [a]}
  - {source_model: b, positive_prompts: [b]}
  - {source_model: c, positive_prompts: [c]}
"""
# The converter knows published vocabularies only; the pre-tokenizer of this one is GPT-2's.
CONVERT = """\
import runpy, sys
tree, model, out = sys.argv[1:]
sys.path[:0] = [tree, tree + "/gguf-py"]
import conversion.base as base
for found in vars(base).values():
    if isinstance(found, type) and "get_vocab_base_pre" in vars(found):
        found.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", out, "--outtype", "f32", "--model-name", "imatrix-test"]
runpy.run_path(tree + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def main(moerge, tree, tool):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ("a", "b", "c"):
            model = tiny_model(name, hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1)
            tokenizer = json.loads(model.files["tokenizer.json"])
            tokenizer["model"]["vocab"]["th"] = 258
            tokenizer["model"]["merges"] = ["t h"]
            model.files["tokenizer.json"] = json.dumps(tokenizer).encode()
            model.files["tokenizer_config.json"] = b'{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}'
            model.write(folder / name)
        (folder / "moe.yaml").write_text(YAML)
        subprocess.run([moerge, "moe", folder / "moe.yaml", folder / "moe", "--quiet"], check=True)
        subprocess.run([sys.executable, "-c", CONVERT, tree, folder / "moe", HERE / "model.gguf"], check=True)
    for form, name in (("gguf", "reference.gguf"), ("dat", "reference.dat")):
        subprocess.run([tool, "-m", "model.gguf", "-f", "text.txt", "-o", name, "--output-format", form, "-c", "64", "-b", "64",
                        "-t", "1", "--no-ppl", "--process-output", "-ngl", "0"], check=True, cwd=HERE)


if __name__ == "__main__":
    main(*map(os.path.abspath, sys.argv[1:4]))
