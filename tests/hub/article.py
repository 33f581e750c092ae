#!/usr/bin/env python3
"""From the Hub and back: four repositories -> a mixture -> its card -> a repository that transformers loads and runs.

usage: article.py MOERGE --python PYTHON

The Hub is the fake one, the experts those of examples/family. PYTHON has transformers and torch. Every step is checked; ends
with "the article holds", or says what does not.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FAMILY = HERE.parent.parent / "examples" / "family"
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import fakehub, hub_card
from witness import NOBODY, Witnesses, cache_of, contents, differences, environment, repo_folder

EXPERTS = {  # name -> prompts
    "dialogue": ["USER: I would like to book a table for two.", "SYSTEM: Your appointment is confirmed. Anything else?"],
    "code": ["def read_lines(path, encoding=None):", "import os\\nimport sys\\nfrom collections import namedtuple"],
    "prose": ["She turned from the window with a sigh.", "The road wound down between the hills."],
    "maths": ["How many pencils does she have in total?", "He makes 15*8=$120 a day."],
}
REPOS = [f"tester/{name}" for name in EXPERTS]
RESULT = "tester/beyonder"

GENERATE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
name = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
ids = tokenizer("def read_lines(path):", return_tensors="pt")
ids.pop("token_type_ids", None)
new = model.generate(**ids, max_new_tokens=12, do_sample=False)
print(json.dumps({"ids": new[0].tolist(), "text": tokenizer.decode(new[0]), "class": type(model).__name__,
                  "parameters": sum(it.numel() for it in model.parameters())}))
"""
CARD = """
import json, sys
from huggingface_hub import ModelCard
print(json.dumps(ModelCard.load(sys.argv[1]).data.to_dict()))
"""


def config():
    lines = [f"base_model: {REPOS[0]}", "gate_mode: hidden", "dtype: bfloat16", "experts_per_token: 2", "experts:"]
    for name, prompts in EXPERTS.items():
        lines += [f"  - source_model: tester/{name}", "    positive_prompts:", *(f'      - "{text}"' for text in prompts)]
    return "\n".join(lines) + "\n"


def say(text):
    print(text, flush=True)


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def seed(hub, folder, names=EXPERTS):
    """The models' repositories, one of them private."""
    for name in names:
        source = folder / name
        shutil.copytree(FAMILY / name, source)
        (source / "README.md").write_text("---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# " + name + "\n")
        hub.seed(f"tester/{name}", source, private=name == "maths")


def fetched(hub):
    return {it["path"].split("?")[0] for it in hub.log() if it["method"] == "GET" and it["sent"] and it["status"] in (200, 206)
            and (it["origin"] == "cdn" or "/resolve" in it["path"])}


class Steps:
    """What the steps share: a Hub, a home that only knows this Hub, the program, and a Python if there is one."""

    def __init__(self, hub, folder, moerge, python=None):
        self.hub, self.folder, self.python = hub, folder, python and os.path.abspath(python)
        self.clients = Witnesses(folder, moerge)
        self.variables = environment(self.home("home"), hub.url)

    def home(self, name):
        (self.folder / name).mkdir()
        return self.folder / name

    def moerge(self, *words, **variables):
        return self.clients.run([self.clients.moerge, *words], {**self.variables, **variables})

    def cached(self, repos):
        cache = cache_of(self.variables["HOME"])
        for repo in repos:
            ref = repo_folder(cache, repo) / "refs" / "main"
            check(ref.exists() and ref.read_text() == self.hub.head(repo), f"{ref} does not name the commit of {repo}")

    def arrived(self, repo, expected):
        """The Hub has these files, path -> content, and nothing else but its own .gitattributes."""
        found = self.hub.files(repo)
        found.pop(".gitattributes")
        text = differences(found, expected, "found", "expected")
        check(found == expected, f"{repo} has other files than those of the folder:\n{text}")

    def no_leaks(self):
        leaks = [it for it in self.hub.log() if it["token"] and it["origin"] != "hub"]
        check(not leaks, f"a token left the Hub: {leaks}")

    def generates(self, variables, repo, folder):
        """transformers loads the repository as it does the folder, and writes the same."""
        remote, local = (json.loads(self.clients.run([self.python, "-c", GENERATE, name], variables).stdout.splitlines()[-1])
                         for name in (repo, folder))
        check(remote == local, f"from the Hub: {remote}\nfrom the folder: {local}")
        say(f"  {remote['class']}, {remote['parameters']:,} parameters: {remote['text']!r}")

    def read_card(self, variables, repo):
        """The metadata of its card, as huggingface_hub reads them."""
        return json.loads(self.clients.run([self.python, "-c", CARD, repo], variables).stdout)


def run_steps(steps):
    for step in steps:
        say(f"{step.__name__} ...")
        try:
            step()
        except (AssertionError, OSError, KeyError, subprocess.SubprocessError) as error:
            sys.exit(f"FAIL {step.__name__}: {error!r}" if not str(error) else f"FAIL {step.__name__}: {error}")


class Article(Steps):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.out = self.folder / "out"

    def build(self):
        (self.folder / "config.yaml").write_text(config())
        self.moerge("moe", self.folder / "config.yaml", self.out)
        self.cached(REPOS)
        check(fetched(self.hub), "nothing was fetched")
        made = json.loads((self.out / "config.json").read_text())
        check(made["num_local_experts"] == len(REPOS), f"{made['num_local_experts']} experts, expected {len(REPOS)}")

        self.hub.clear()
        self.moerge("moe", self.folder / "config.yaml", self.folder / "again")
        check(not fetched(self.hub), f"the second build fetched {fetched(self.hub)}")
        self.moerge("moe", self.folder / "config.yaml", self.folder / "offline", HF_HUB_OFFLINE="1", HF_ENDPOINT=NOBODY)
        weights = [(self.folder / name / "model.safetensors").read_bytes() for name in ("out", "again", "offline")]
        check(len(set(weights)) == 1, "the three builds differ")

    def card(self):
        self.moerge("card", self.out)
        text = (self.out / "README.md").read_text()
        errors, warnings = hub_card.check_card(text)
        check(not errors and not warnings, f"the Hub would say of the card: {errors + warnings}")
        for repo in REPOS:
            check(repo in text, f"the card does not name {repo}")

    def push(self):
        self.hub.clear()
        self.moerge("push", self.out, RESULT)
        self.arrived(RESULT, contents(self.out))
        check(self.hub.entry(RESULT, "model.safetensors").sha256, "the weights are no large file")
        check(any(it["path"] == "/api/validate-yaml" for it in self.hub.log()), "the card was not checked before the upload")
        self.no_leaks()
        head = self.hub.head(RESULT)
        self.moerge("push", self.out, RESULT)
        check(self.hub.head(RESULT) == head, "a second push of the same folder made a commit")

    def transformers(self):
        variables = environment(self.home("reader"), self.hub.url, token=None)
        self.generates(variables, RESULT, self.out)
        card = self.read_card(variables, RESULT)
        check(card.get("base_model") == REPOS, f"base_model of the card: {card.get('base_model')}, expected {REPOS}")
        say(f"  card: {card}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moerge", metavar="MOERGE", help="the program")
    parser.add_argument("--python", required=True, help="a Python that has transformers, torch and huggingface_hub")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moerge-article-") as name, fakehub.start(Path(name) / "hub") as hub:
        folder = Path(name).resolve()
        seed(hub, folder)
        article = Article(hub, folder, arguments.moerge, arguments.python)
        run_steps((article.build, article.card, article.push, article.transformers))
    say("the article holds")


if __name__ == "__main__":
    main()
