#!/usr/bin/env python3
"""The Beyonder report: the whole article on the shipped family, from pull to push, in the commands of one user.

usage: beyonder.py MOERGE [--python PYTHON] [--out DIR]

The experts of examples/family play the article's four models and lie on the fake Hub, as do the data sets of the
benchmarks (benchmarks.py): pull -> moe -> gguf -> eval of base, experts and mixture -> card -> push -> pulled by a
stranger, who finds the card's numbers again. DIR keeps models, results, report.md and a log of all commands. PYTHON has
transformers, torch and huggingface_hub; without it nobody but moerge reads what was pushed. Every step is checked; ends
with "the Beyonder report holds", or says what does not.
"""
import argparse, json, math, re, shlex, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import benchmarks, fakehub, hub_card
from article import FAMILY, Steps, check, fetched, run_steps, say, seed
from witness import contents, differences, environment

EXPERTS = ["code", "maths", "prose", "dialogue"]  # CodeNinja, NeuralDaredevil, Kunoichi, AlphaMonarch
DENSE = [f"tester/{name}" for name in ("base", *EXPERTS)]
NAME = "Beyonder-4x1M"
RESULT = f"tester/{NAME}"
GGUFS = f"{RESULT}-GGUF"
TYPES = {"F16": 16, "Q8_0": 8.5, "Q4_K_M": 4.5}  # and the fewest bits a weight
SUITES = {"nous": 34, "eq-bench": 1}  # and how many tasks they have
GROUPS = ["AGIEval", "GPT4All", "TruthfulQA", "BigBench"]
# Tasks that ask which of four endings belongs to a beginning; the others are from texts of another kind.
ENDINGS = ["hellaswag", "openbookqa", "bigbench_ruin_names", "bigbench_snarks", "bigbench_disambiguation_qa"]
# What model-index calls the tasks and groups of both suites, and the score that it has of each.
CARD_SCORES = {
    "HellaSwag": ("hellaswag", "acc_norm"), "OpenBookQA": ("openbookqa", "acc_norm"), "Winogrande": ("winogrande", "acc"),
    "AI2 Reasoning Challenge, easy set": ("arc_easy", "acc_norm"), "AI2 Reasoning Challenge": ("arc_challenge", "acc_norm"),
    "BoolQ": ("boolq", "acc"), "PIQA": ("piqa", "acc_norm"), "TruthfulQA": ("truthfulqa_mc2", "acc"),
    "agieval": ("agieval", "acc_norm"), "bigbench": ("bigbench", "multiple_choice_grade"), "EQ-Bench": ("eq_bench", "eqbench"),
}
# Data set and score of an entry of model-index.
CARD_SCORE = re.compile(r'    dataset:\n      name: "(.*)"\n(?:      .*\n)*    metrics:\n    - type: .*\n      value: (.*)\n')
ROUNDING = 1e-4  # other texts beside an item may change the last digits of its loglikelihoods, and so of mc2
ONE_THREAD = ("-t", 1)  # more would wait for each other in models this small


def config():
    """The family's own YAML, its models by their names on the Hub."""
    text = (FAMILY / "moe.yaml").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.M)
    return re.sub(r"^(base_model: |  - source_model: )", r"\1tester/", text, flags=re.M)


def model_file(type):
    return f"gguf/{NAME}.{type}.gguf"


MIXTURE, SMALLEST = model_file("F16"), model_file("Q4_K_M")


def plain_name(model):
    """As reports call it."""
    return Path(model).name.removesuffix(".gguf")


def table(head, rows):
    lines = [head, ["---" if i == 0 else "---:" for i in range(len(head))], *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


class Beyonder(Steps):
    def __init__(self, hub, folder, out, commits, moerge, python):
        super().__init__(hub, folder, moerge, python)
        self.out, self.commits = out, commits  # of the data sets
        self.models = {name: f"eval/{plain_name(name)}" for name in (*DENSE, *map(model_file, TYPES))}  # -> its results
        self.commands, self.seconds, self.results, self.plan = [], {}, {}, None

    def moerge(self, *words, stranger=None):
        """One command of the user's, in DIR, or of a stranger's, who has these variables; what it prints. It is logged."""
        command = shlex.join(["moerge", *map(str, words)])
        if not stranger:
            self.commands.append(command)
        start = time.monotonic()
        done = self.clients.run([self.clients.moerge, *words], stranger or self.variables, cwd=self.out)
        with open(self.out / "log.txt", "a") as log:
            log.write(f"$ {command}\n{done.stderr}{done.stdout}[{time.monotonic() - start:.1f} s]\n\n")
        return done.stdout

    def timed(self, step):
        """The same step, its seconds kept for the report."""
        def run():
            start = time.monotonic()
            step()
            self.seconds[step.__name__.replace("_", " ")] = time.monotonic() - start
        run.__name__ = step.__name__
        return run

    # ----------------------------------------------------------------------------------------------------------- steps

    def pull(self):
        self.moerge("pull", *DENSE)
        self.cached(DENSE)
        self.hub.clear()

    def moe(self):
        (self.out / "config.yaml").write_text(config())
        self.plan = json.loads(self.moerge("plan", "config.yaml", "--json"))
        self.moerge("moe", "config.yaml", NAME, "--verify")
        check(not fetched(self.hub), f"pulled models were fetched again: {fetched(self.hub)}")
        made = json.loads((self.out / NAME / "config.json").read_text())
        check(made["num_local_experts"] == len(EXPERTS), f"{made['num_local_experts']} experts, expected {len(EXPERTS)}")
        check([it["source_model"] for it in self.plan["experts"]] == DENSE[1:], f"the plan's experts: {self.plan['experts']}")

    def gguf(self):
        self.moerge("gguf", NAME, "gguf", "--type", ",".join(TYPES).lower())
        found = sorted(path.name for path in (self.out / "gguf").iterdir())
        check(found == sorted(Path(model_file(type)).name for type in TYPES), f"gguf/ holds {found}")
        sizes = [self.bits(type) for type in TYPES]
        check(sizes == sorted(sizes, reverse=True), f"bits a weight of {list(TYPES)}: {sizes}")
        for type, bits in TYPES.items():
            check(bits <= self.bits(type), f"{type}: {self.bits(type)} bits a weight, expected at least {bits}")

    def evaluate(self):
        for number, model in enumerate(self.models):
            self.hub.clear()
            self.moerge("eval", model, "--suite", ",".join(SUITES), "--out", self.models[model], *ONE_THREAD)
            data = [it["path"] for it in self.hub.log() if "/datasets/" in it["path"] and "/resolve" in it["path"]]
            check(bool(data) == (number == 0), f"{model}: fetched of data sets: {data}")
            for suite in SUITES:
                path = self.out / self.models[model] / suite / "results.json"
                self.results[model, suite] = json.loads(path.read_text())
                self.check_results(model, suite)
            self.check_nous(model)
        for model in self.models:
            say(f"  {model}: Nous {self.average(model, 'nous'):.2f}, endings {self.endings(model):.1f} %")
        check(self.endings(MIXTURE) >= 50, f"the mixture finds {self.endings(MIXTURE)} % of the endings; chance is 25 %")
        off = abs(self.endings(model_file("Q8_0")) - self.endings(MIXTURE))
        check(off <= 10, f"Q8_0 finds {off} % more or less of the endings than F16")

    def compare(self):
        for suite in SUITES:
            folders = {model: f"{folder}/{suite}" for model, folder in self.models.items()}
            first = folders.pop(MIXTURE)
            shown = self.moerge("eval", first, "--compare", ",".join(folders.values()))
            check(shown == (self.out / first / "results.md").read_text(), f"{first}: other tables than those of its run")
            page = (self.out / first / "results.html").read_text()
            for model in self.models:
                check(plain_name(model) in page, f"the page of {suite} does not name {plain_name(model)}")
            check("<script" not in page, f"the page of {suite} has a script")

    def card(self):
        results = [word for suite in SUITES for word in ("--eval", f"{self.models[MIXTURE]}/{suite}/results.json")]
        self.moerge("card", NAME, "--repo", RESULT, "--quantized", GGUFS, *results)
        results = [word for suite in SUITES for word in ("--eval", f"{self.models[SMALLEST]}/{suite}/results.json")]
        self.moerge("card", "gguf", "--repo", GGUFS, "--source", RESULT, "--name", f"{NAME}-GGUF", *results)
        files = [Path(model_file(type)).name for type in TYPES]
        for folder, model, named in ((NAME, MIXTURE, [*DENSE, GGUFS]), ("gguf", SMALLEST, [RESULT, *files])):
            text = (self.out / folder / "README.md").read_text()
            errors, warnings = hub_card.check_card(text)
            check(not errors and not warnings, f"the Hub would say of the card of {folder}: {errors + warnings}")
            for word in ["license: apache-2.0", *named]:
                check(word in text, f"the card of {folder} does not say {word!r}")
            self.check_card_scores({name: float(value) for name, value in CARD_SCORE.findall(text)}, folder, model)

    def push(self):
        self.hub.clear()
        self.moerge("push", NAME, RESULT, "--gguf", "gguf")
        self.arrived(RESULT, contents(self.out / NAME))
        self.arrived(GGUFS, contents(self.out / "gguf"))
        for repo, file in ((RESULT, "model.safetensors"), *((GGUFS, Path(model_file(type)).name) for type in TYPES)):
            check(self.hub.entry(repo, file).sha256, f"{file} of {repo} is no large file")
        checked = sum(it["path"] == "/api/validate-yaml" for it in self.hub.log())
        check(checked == 2, f"{checked} cards were checked before the upload, expected 2")
        self.no_leaks()

    def read_back(self):
        """By somebody without a token, in a home of his own."""
        stranger = environment(self.home("stranger"), self.hub.url, token=None)
        self.moerge("pull", RESULT, "--local-dir", self.folder / "model", stranger=stranger)
        found, expected = contents(self.folder / "model"), contents(self.out / NAME)
        found.pop(".gitattributes", None)
        check(found == expected, "the model that was pulled differs:\n" + differences(found, expected, "pulled", "pushed"))
        name = Path(SMALLEST).name
        self.moerge("pull", GGUFS, "--include", name, "--local-dir", self.folder / "small", stranger=stranger)
        self.moerge("eval", self.folder / "small" / name, "--suite", "nous", "--out", self.folder / "small.eval", *ONE_THREAD,
                    stranger=stranger)
        found = json.loads((self.folder / "small.eval" / "results.json").read_text())["results"]
        expected = self.results[SMALLEST, "nous"]["results"]
        check(found.keys() == expected.keys(), f"a stranger has other tasks: {sorted(found.keys() ^ expected.keys())}")
        other = [(task, metric, value, found[task].get(metric)) for task in expected for metric, value in expected[task].items()
                 if isinstance(value, float) and abs(found[task].get(metric, math.inf) - value) > ROUNDING]
        check(not other, f"a stranger has other results of {name}: {other}")
        if self.python is None:
            say("  without --python: huggingface_hub and transformers were not asked")
            return
        for repo, model in ((RESULT, MIXTURE), (GGUFS, SMALLEST)):
            index = self.read_card(stranger, repo)["model-index"]
            found = {it["dataset"]["name"]: it["metrics"][0]["value"] for it in index[0]["results"]}
            self.check_card_scores(found, repo, model)
        self.generates(stranger, RESULT, self.out / NAME)

    def report(self):
        text = self.report_text()
        (self.out / "report.md").write_text(text)
        say("\n" + text)

    # --------------------------------------------------------------------------------------------------------- results

    def check_results(self, model, suite):
        """All tasks were asked, all items, of the data sets' commits."""
        found = self.results[model, suite]
        tasks = found["moerge"]["tasks"]
        check(len(tasks) == SUITES[suite], f"{model}: {len(tasks)} tasks of {suite}, expected {SUITES[suite]}")
        for it in tasks:
            task, commit = it["task"], self.commits[found["configs"][it["task"]]["dataset_path"]]
            check("error" not in it, f"{model}: {task}: {it.get('error')}")
            check(it["data_revision"] == commit, f"{task}: asked of {it['data_revision']}, expected {commit}")
            count = next((n for word, n in benchmarks.OBJECTS.items() if f"_{word}_objects" in task), benchmarks.ITEMS)
            check(found["n-samples"][task] == {"original": count, "effective": count},
                  f"{model}: items of {task}: {found['n-samples'][task]}, expected {count}")

    def check_nous(self, model):
        """The averages are what they say: of the groups' tasks, and of the groups."""
        groups = self.suite(model, "nous")["groups"]
        check([it["name"] for it in groups] == GROUPS, f"{model}: groups {groups}, expected {GROUPS}")
        for group in groups:
            scores = [self.score(model, task) for task in group["tasks"]]
            mean = 100 * sum(scores) / len(scores)
            check(abs(mean - group["score"]) < 1e-6, f"{model}: {group['name']} is {group['score']}, its tasks' mean {mean}")
        mean, said = sum(it["score"] for it in groups) / len(groups), self.average(model, "nous")
        check(abs(mean - said) < 1e-6, f"{model}: the average is {said}, that of its groups {mean}")

    def check_card_scores(self, found, repo, model):
        """`found`: data set -> score, as model-index has them."""
        results = self.results[model, "nous"]["results"] | self.results[model, "eq-bench"]["results"]
        expected = {name: round(results[task][f"{metric},none"], 4) for name, (task, metric) in CARD_SCORES.items()}
        check(found == expected, f"model-index of {repo}: {found}, expected {expected}")

    def suite(self, model, suite):
        return next(it for it in self.results[model, suite]["moerge"]["suites"] if it["name"] == suite)

    def average(self, model, suite):
        return self.suite(model, suite)["average"]

    def score(self, model, task):
        """The one of which GPT4All and the others make means."""
        found = self.results[model, "nous"]["results"][task]
        metrics = (f"{metric},none" for metric in ("acc_norm", "acc", "multiple_choice_grade"))
        return next(found[metric] for metric in metrics if metric in found)

    def endings(self, model):
        found = self.results[model, "nous"]["results"]
        scores = [found[task].get("acc,none", found[task].get("multiple_choice_grade,none")) for task in ENDINGS]
        return 100 * sum(scores) / len(scores)

    # ---------------------------------------------------------------------------------------------------------- report

    def bits(self, type):
        return 8 * (self.out / model_file(type)).stat().st_size / self.plan["parameters"]["total"]

    def report_text(self):
        total, active = (f"{self.plan['parameters'][key]:,}" for key in ("total", "active"))
        scores = []
        for model in self.models:
            groups = {it["name"]: it["score"] for it in self.suite(model, "nous")["groups"]}
            readable = self.results[model, "eq-bench"]["results"]["eq_bench"]["percent_parseable,none"]
            numbers = [self.average(model, "nous"), *(groups[it] for it in GROUPS), self.average(model, "eq-bench"), readable]
            name = plain_name(model) if model in DENSE else f"**{plain_name(model)}**"
            scores.append([name, *(f"{it:.2f}" for it in numbers)])
        files = [[Path(model_file(type)).name, f"{(self.out / model_file(type)).stat().st_size:,}", f"{self.bits(type):.2f}",
                  f"{self.average(model_file(type), 'nous'):.2f}"] for type in TYPES]
        repositories = [[repo, self.hub.head(repo)[:12], len(self.hub.files(repo))] for repo in (RESULT, GGUFS)]
        commands = "".join(f"{command}\n" for command in self.commands)
        return f"""\
# {NAME}
A mixture of {", ".join(DENSE[1:-1])} and {DENSE[-1]} on {DENSE[0]}: {total} parameters, of which a token uses {active}.

## Config
```yaml
{(self.out / "config.yaml").read_text()}```

## Scores
{table(["Model", "Nous", *GROUPS, "EQ-Bench", "readable"], scores)}
{benchmarks.ITEMS} items a task, written for this test: the numbers compare these models and say nothing else. Pages with error
bars: [Nous]({self.models[MIXTURE]}/nous/results.html), [EQ-Bench]({self.models[MIXTURE]}/eq-bench/results.html).

## GGUF
{table(["File", "Bytes", "Bits a weight", "Nous"], files)}
## On the Hub
{table(["Repository", "Commit", "Files"], repositories)}
## Seconds
{table(["Step", "s"], [[name, f"{seconds:.1f}"] for name, seconds in self.seconds.items()])}
## Commands
```
{commands}```
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moerge", metavar="MOERGE", help="the program")
    parser.add_argument("--python", help="a Python that has transformers, torch and huggingface_hub")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder that keeps models, results and report.md")
    arguments = parser.parse_args()
    if arguments.out and arguments.out.exists():
        parser.error(f"--out {arguments.out} is there already; give the name of a new folder")
    with tempfile.TemporaryDirectory(prefix="moerge-beyonder-") as name, fakehub.start(Path(name) / "hub") as hub:
        folder = Path(name).resolve()
        seed(hub, folder, [repo.split("/")[1] for repo in DENSE])
        commits = benchmarks.seed(hub, folder / "data")
        out = (arguments.out or folder / "out").resolve()
        out.mkdir(parents=True)
        it = Beyonder(hub, folder, out, commits, arguments.moerge, arguments.python)
        steps = (it.pull, it.moe, it.gguf, it.evaluate, it.compare, it.card, it.push, it.read_back)
        run_steps([*map(it.timed, steps), it.report])
    say(f"the Beyonder report holds: {len(DENSE)} models pulled, {len(it.models)} evaluated in {sum(SUITES.values())} tasks, "
        f"{RESULT} and {GGUFS} pushed and read back")


if __name__ == "__main__":
    main()
