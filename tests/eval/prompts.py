#!/usr/bin/env python3
"""Every prompt and continuation of moerge's tasks equals lm-evaluation-harness's, for the same items and shots.

usage: prompts.py EVAL_PROMPTS LMEVAL_PYTHON TASKS [--limit 50] [-k SUBSTRING]

EVAL_PROMPTS is built by `ninja -C build/release eval_prompts`, LMEVAL_PYTHON a Python that has lm_eval 0.4.13, TASKS a
folder with real items: NAME.jsonl, NAME.fewshot.jsonl, bigbench/NAME.jsonl with NAME.header.json, and
lm_eval_tasks/make.py, which writes lm-eval's own definitions for these files. BIG-bench is compared with the harness of
2023, whose rule is written down here. Ends with "N passed, M failed".
"""
import argparse, json, os, subprocess, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# lm-eval's task -> ours, and the shots to compare beside none
TASKS = {"arc_easy": (), "arc_challenge": (25, 5), "hellaswag": (10, 3), "winogrande": (5,), "gsm8k": (5,), "boolq": (), "openbookqa": (),
         "piqa": (), "truthfulqa_mc1": (), "truthfulqa_mc2": (), "eq_bench": (), "mmlu": ()}
FILES = {"truthfulqa_mc1": "truthfulqa_mc", "truthfulqa_mc2": "truthfulqa_mc", "eq_bench": "eq_bench_v2"}

SAMPLERS = ("default", "first_n")

# Run by lm-eval's Python: the requests of the tasks named, as JSON lines.
REQUESTS = r"""
import json, random, sys
from lm_eval.tasks import TaskManager
def requests(task, shots, limit):
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    if hasattr(task, "sampler") and hasattr(task.sampler, "set_rnd"):
        task.sampler.set_rnd(1234)
    task.build_all_requests(limit=limit if limit >= 0 else None)
    items = {}
    for request in task.instances:
        items.setdefault(request.doc_id, []).append(request)
    for number, group in sorted(items.items()):
        group.sort(key=lambda r: r.idx)
        generated = task.OUTPUT_TYPE == "generate_until"
        yield {"index": number, "contexts": [r.args[0] for r in group], "continuations": [] if generated else [r.args[1] for r in group]}
folder, jobs, limit = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
manager = TaskManager(include_path=folder, include_defaults=False)
out = {}
for name, shots in jobs:
    found = manager.load([name]) if hasattr(manager, "load") else manager.load_task_or_group([name])
    while isinstance(found, dict) and name not in found:
        found = found["tasks"] if "tasks" in found else next(iter(found.values()))
    out[f"{name}:{shots}"] = list(requests(found[name], shots, limit))
json.dump(out, sys.stdout)
"""

# HellaSwag's items above are processed already; these go through both programs' process_docs.
RAW = [{"activity_label": label, "ctx_a": a, "ctx_b": b, "endings": endings, "label": str(number % 4), "ind": number}
       for number, (label, a, b, endings) in enumerate([
           ("Home  and Garden", " [header] How to wash [title] Get a bowl. [step] Fill it.", "", ["  One [title] two.", "[substeps] Use  water. ", "Go   on.", "[a] [b] x"]),
           ("Playing drums", "A man sits down. He", "THE Man then HITS a drum", ["hits [unclosed it.", "stops.", "waves] back.", "sings"]),
           ("Ärger", "Wir sehen. ", "über ALLES, É", ["a", "b\u00a0", "\u2003c", "d\n"]),
           ("Lines", "one\ntwo [over\nlines] end", "x", ["[over\nlines]", "b", "c", "d"])])]
PROCESS = r"""
import json, sys
from lm_eval.tasks.hellaswag.utils import process_docs
class Docs(list):
    def map(self, change): return [change(doc) for doc in self]
json.dump(process_docs(Docs(json.loads(sys.argv[1]))), sys.stdout)
"""


def ours(program, task, shots, limit, *files, published=False):
    run = subprocess.run([program, task, str(shots), str(limit), *(["--as-published"] if published else []), *map(str, files)],
                         capture_output=True, text=True)
    if run.returncode:
        raise AssertionError(run.stderr.strip())
    return [json.loads(line) for line in run.stdout.splitlines()]


def compare(mine, theirs):
    assert len(mine) == len(theirs), f"{len(mine)} items, lm-eval has {len(theirs)}"
    for a, b in zip(mine, theirs):
        assert a["index"] == b["index"], f"item {a['index']} is lm-eval's {b['index']}"
        count = max(1, len(b["continuations"]))
        contexts = a["contexts"] * count if len(a["contexts"]) == 1 else a["contexts"]
        for what, x, y in (("context", contexts, b["contexts"]), ("continuation", a["continuations"], b["continuations"])):
            assert x == y, f"item {a['index']}: {what}s differ\n  ours    {x}\n  lm-eval {y}"


def bigbench_items(folder, name, limit):
    """The harness of 2023; numpy is asked for its permutation by lm-eval's Python."""
    header = json.loads((folder / f"{name}.header.json").read_text())
    for line in list(open(folder / f"{name}.jsonl", encoding="utf-8"))[:limit]:
        doc = json.loads(line)
        yield header, doc, sorted(doc["target_scores"])


def bigbench_requests(python, folder, name, limit):
    documents = list(bigbench_items(folder, name, limit))
    orders = json.loads(subprocess.run([python, "-c", "import json, sys, numpy\nprint(json.dumps([[str(x) for x in numpy.random.RandomState(seed=42).permutation(k)]"
                                        " for k in json.load(sys.stdin)]))"],
                                       input=json.dumps([keys for _, _, keys in documents]), capture_output=True, text=True, check=True).stdout)
    out = []
    for number, ((header, doc, _), choices) in enumerate(zip(documents, orders)):
        text = header.get("task_prefix", "") + header.get("example_input_prefix", "\nQ: ") + doc["input"]
        if header.get("append_choices_to_input", True):
            text += "".join(header.get("choice_prefix", "\n  choice: ") + choice for choice in choices)
        text += header.get("example_output_prefix", "\nA: ")
        out.append({"index": number, "contexts": [text] * len(choices), "continuations": choices,
                    "gold": [i for i, choice in enumerate(choices) if doc["target_scores"][choice]]})
    return out


def bigbench(program, python, folder, name, limit):
    theirs = bigbench_requests(python, folder, name, limit)
    # The file of this name in the published data is another task's.
    published = name == "tracking_shuffled_objects_three_objects"
    mine = ours(program, f"bigbench_{name}", 0, limit, folder / f"{name}.jsonl", published=published)
    compare(mine, theirs)
    assert [item["gold"] for item in mine] == [item["gold"] for item in theirs], "right choices differ"
    return len(mine)


def lm_eval_jobs(tasks):
    jobs = [(f"loc_{name}", name, shots) for name, more in TASKS.items() for shots in (0, *more)]
    jobs += [(f"loc_same_{sampler}", f"same_{sampler}", 3) for sampler in SAMPLERS]
    jobs += [(f"loc_{file.stem}", file.stem, 0) for file in sorted(tasks.glob("agieval_*.jsonl"))]
    return jobs


def run_lm_eval(python, work, tasks, jobs, limit):
    subprocess.run([python, str(tasks / "lm_eval_tasks/make.py"), subprocess.run(
        [python, "-c", "import lm_eval, os; print(os.path.dirname(lm_eval.__file__))"], capture_output=True, text=True, check=True).stdout.strip()],
        cwd=work, check=True)
    (work / "loc_utils.py").write_text((tasks / "lm_eval_tasks/loc_utils.py").read_text().replace(
        "os.path.abspath(os.path.join(os.path.dirname(__file__),'..'))", repr(str(tasks))))
    for sampler in SAMPLERS:  # examples from the items themselves
        (work / f"loc_same_{sampler}.yaml").write_text(
            f"include: loc_piqa.yaml\ntask: loc_same_{sampler}\nfewshot_split: test\nfewshot_config: {{sampler: {sampler}}}\n")
    environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hf"), "TQDM_DISABLE": "1"}
    run = subprocess.run([python, "-c", REQUESTS, str(work), json.dumps([(a, c) for a, _, c in jobs]), str(limit)], capture_output=True, text=True, env=environment)
    if run.returncode:
        sys.exit(f"lm-eval failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout[run.stdout.index("{"):])


def mmlu(program, tasks, theirs, limit):
    """loc_mmlu asks one list of all subjects; ours is a task for each, with the first five of its examples."""
    documents = [json.loads(line) for line in open(tasks / "mmlu.jsonl", encoding="utf-8")][:limit]
    examples = [json.loads(line) for line in open(tasks / "mmlu.fewshot.jsonl", encoding="utf-8")]
    mine = {}
    with tempfile.TemporaryDirectory() as work:
        for subject in sorted({doc["subject"] for doc in documents}):
            for name, rows in (("test", documents), ("dev", examples)):
                with open(f"{work}/{name}.jsonl", "w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows if row["subject"] == subject)
            mine[subject] = ours(program, f"mmlu_{subject}", 5, -1, f"{work}/test.jsonl", f"{work}/dev.jsonl")
    flat = [mine[doc["subject"]].pop(0) for doc in documents]
    for number, item in enumerate(flat):
        item["index"] = number
    compare(flat, theirs)
    return len(flat)


def same_split(program, items, name, shots, theirs, limit):
    with tempfile.TemporaryDirectory() as work:
        task = Path(work, f"{name}.yaml")
        task.write_text(f"include: piqa.yaml\ntask: {name}\ntest_split: test\nfewshot_split: test\nfewshot_config: {{sampler: {name.removeprefix('same_')}}}\n")
        mine = ours(program, str(task), shots, limit, items)
    compare(mine, theirs)
    return len(mine)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("python")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("-k", default="")
    options = parser.parse_args()
    tasks = options.tasks.resolve()
    passed, failed = 0, 0

    def check(name, test):
        nonlocal passed, failed
        if options.k not in name:
            return
        try:
            print(f"ok    {name}: {test()} items", flush=True)
            passed += 1
        except AssertionError as error:
            print(f"FAIL  {name}: {error}", flush=True)
            failed += 1

    jobs = [job for job in lm_eval_jobs(tasks) if options.k in job[1]]
    with tempfile.TemporaryDirectory() as folder:
        theirs = run_lm_eval(options.python, Path(folder), tasks, jobs, options.limit) if jobs else {}
    for theirs_name, name, shots in jobs:
        items = theirs[f"{theirs_name}:{shots}"]
        stem = FILES.get(name, name)
        files = [tasks / f"{stem}.jsonl", *([tasks / f"{stem}.fewshot.jsonl"] if shots else [])]

        def test():
            if name == "mmlu":
                return mmlu(options.program, tasks, items, options.limit)
            if name.startswith("same_"):
                return same_split(options.program, tasks / "piqa.jsonl", name, shots, items, options.limit)
            mine = ours(options.program, name, shots, options.limit, *files)
            compare(mine, items)
            return len(mine)
        check(f"{name}, {5 if name == 'mmlu' else shots} shots", test)
    for file in sorted((tasks / "bigbench").glob("*.jsonl")):
        check(f"bigbench {file.stem}", lambda: bigbench(options.program, options.python, tasks / "bigbench", file.stem, options.limit))

    def processed():
        expected = json.loads(subprocess.run([options.python, "-c", PROCESS, json.dumps(RAW)], capture_output=True, text=True, check=True).stdout)
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
            file.writelines(json.dumps(doc) + "\n" for doc in RAW)
            file.flush()
            mine = ours(options.program, "hellaswag", 0, -1, file.name)
        for item, doc in zip(mine, expected, strict=True):
            # Letters beyond ASCII are not made small (docs/eval-tasks.md).
            if doc["query"].isascii():
                assert item["contexts"] == [doc["query"]], f"{item['contexts']} {doc['query']!r}"
            assert item["choices"] == doc["choices"] and item["gold"] == [doc["gold"]], f"{item} {doc}"
        return len(mine)
    check("hellaswag's process_docs", processed)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
