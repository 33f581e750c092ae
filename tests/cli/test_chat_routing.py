"""moerge chat --show-routing: llama.cpp's routers, read while it generates, against `moerge route`'s own forward pass over the same tokens."""
import json

from harness import rows
from tiny_gguf import BOOL
from tiny_mixtures import FAMILIES, mixture_gguf, tiny_mixture

PROMPT = "def f(x):\n    return x + 1, so 3 * 4 = 12"


def follows(wanted, tokens):
    """Where in `tokens` the ids `wanted` stand, at the end; a text is not always cut into the tokens it was made of."""
    ids = [token["id"] for token in tokens]
    for first in range(len(ids) - len(wanted), 0, -1):
        if ids[first:first + len(wanted)] == wanted:
            return first
    return None


@rows({family: (family,) for family in FAMILIES})
def test_the_routing_of_an_answer_is_that_of_the_forward_pass(case, family):
    gguf = mixture_gguf(tiny_mixture("mix", family), "f32")
    gguf.metadata["tokenizer.ggml.add_bos_token"] = (BOOL, True)  # as `moerge route` reads a text
    gguf.write(case.path("mix.gguf"))
    compared = 0
    for seed in range(6):
        told = json.loads(case.run("chat", "mix.gguf", "--plain", "--prompt", PROMPT, "--predict", 12, "--seed", seed, "--temp", 2,
                                   "--show-routing", "--json", "--quiet", "--", "--grammar", "root ::= [0-9=+;]+").exits(0)
                          .stdout)
        shown = told["routing"]["tokens"]
        assert [token["index"] for token in shown] == list(range(len(shown))) and len(shown) - told["tokens"] in (-1, 0)
        case.write("text.txt", PROMPT + told["text"])
        tokens = json.loads(case.run("route", "mix.gguf", "--text", "text.txt", "--json", "--per-token", "--quiet").exits(0)
                            .stdout)["texts"][0]["per_token"]
        first = follows([token["token"] for token in shown], tokens)
        if first is None:
            continue
        for ours, theirs in zip(shown, tokens[first:first + len(shown)], strict=True):
            for experts, weights, layer in zip(ours["experts"], ours["weights"], theirs["layers"], strict=True):
                logits = sorted(layer["logits"], reverse=True)
                if logits[len(experts) - 1] - logits[len(experts)] < 1e-3:
                    continue  # too close for two programs
                assert sorted(experts) == sorted(layer["experts"]), (ours, layer)
                whole = sum(layer["weights"])
                for expert, weight in zip(experts, weights, strict=True):
                    share = layer["weights"][layer["experts"].index(expert)] / whole
                    assert abs(share - weight) < 2e-3, (ours, layer)
                compared += 1
    assert compared > 20, f"only {compared} choices could be compared"
