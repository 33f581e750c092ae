"""moerge eval: tasks of the user's own and built-in ones, on the shipped experts of 1M parameters. How prompts and likelihoods compare with
lm-eval's: tests/eval."""
import json, shutil, signal, subprocess, time

from harness import rows
from hub_case import a_hub
from test_chat import FAMILY, dense, mixture
from tiny_models import read_checkpoint, safetensors_files, tensor

TASK = """\
task: colours
data_files: colours.jsonl
output_type: multiple_choice
doc_to_text: "Question: what colour is {{thing}}?\\nAnswer:"
doc_to_choice: [red, blue, "a very long green"]
doc_to_target: colour
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
THINGS = [("the sky", "blue"), ("blood", "red"), ("grass", "a very long green"), ("the sea", "blue")]


def colours(case, task=TASK, items=None):
    case.write("colours.yaml", task)
    lines = [json.dumps({"thing": thing, "colour": colour}) for thing, colour in THINGS] if items is None else items
    case.write("colours.jsonl", "\n".join(lines) + "\n")


def evaluate(case, *flags, model=None, code=0, out="results"):
    return case.run("eval", model or dense(case), "--tasks", "colours.yaml", "--out", out, *flags).exits(code)


def results(case, folder="results"):
    return json.loads(case.path(f"{folder}/results.json").read_text())


def answers(case):
    lines = case.path("results/answers.jsonl").read_text().splitlines()
    return [item for line in lines[1:] for item in json.loads(line).get("items", [])]


def test_own_task(case):
    colours(case)
    result = evaluate(case)
    found = results(case)["results"]["colours"]
    items = answers(case)
    assert len(items) == 4
    best = [max(range(3), key=lambda i: item["choices"][i][0]) for item in items]
    right = ["blue", "red", "a very long green", "blue"]
    names = ["red", "blue", "a very long green"]
    assert found["acc,none"] == sum(names[b] == r for b, r in zip(best, right)) / 4
    normalised = [max(range(3), key=lambda i: item["choices"][i][0] / len(names[i])) for item in items]
    assert found["acc_norm,none"] == sum(names[b] == r for b, r in zip(normalised, right)) / 4
    assert "colours" in result.stdout and "4 items" in result.stderr
    assert case.path("results/results.md").read_text() == result.stdout
    page = case.path("results/results.html").read_text()
    assert "colours" in page and "<script" not in page and "Content-Security-Policy" in page


@rows({"gguf": (mixture,), "dense": (dense,), "folder": (lambda case: FAMILY / "base",), "yaml": (lambda case: FAMILY / "moe.yaml",)})
def test_models(case, model):
    colours(case)
    evaluate(case, model=model(case))
    assert results(case)["results"]["colours"]["acc,none"] in (0, 0.25, 0.5, 0.75, 1)


@rows({"F32": ("F32",), "BF16": ("BF16",), "F16": ("F16",), "of both": ("both",)})
def test_type_holds_all_of_the_weights(case, dtype):
    """A folder is scored as it is: the narrowest type that loses nothing, where memory allows."""
    shutil.copytree(FAMILY / "base", case.path("model"))
    tensors = read_checkpoint(case.path("model"))
    for i, (name, t) in enumerate(tensors.items()):
        own = ("BF16", "F16")[i % 2] if dtype == "both" else dtype
        tensors[name] = tensor(own, t.shape, t.values())
    for path in case.path("model").glob("model*"):
        path.unlink()
    case.write("model/model.safetensors", safetensors_files(tensors)["model.safetensors"])
    colours(case)
    evaluate(case, model="model").says(f"makes a {'F32' if dtype == 'both' else dtype} GGUF of model")


def test_answers_are_kept(case):
    colours(case)
    evaluate(case)
    before = results(case)["results"]
    evaluate(case).says("4 of 4 items were answered before")
    assert results(case)["results"] == before
    evaluate(case, model=mixture(case)).says("answers of another model")


def test_changed_item_is_asked_again(case):
    colours(case)
    evaluate(case)
    case.write("colours.jsonl", case.path("colours.jsonl").read_text().replace("grass", "the grass"))
    evaluate(case).says("3 of 4 items were answered before")


def test_killed_run_goes_on(case):
    """Killed while it asks; the answers that are there are not asked again, and the result is that of one run."""
    colours(case, items=[json.dumps({"thing": f"thing number {i}", "colour": "red"}) for i in range(3000)])
    evaluate(case, out="whole")
    command = case.command(["eval", dense(case), "--tasks", "colours.yaml", "--out", "results"])
    process = subprocess.Popen(command, cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    case.started.append(process)
    end = time.monotonic() + 60
    log = case.path("results/answers.jsonl")
    while not (log.exists() and log.read_text().count("\n") > 2) and process.poll() is None:
        assert time.monotonic() < end, "no answer in a minute"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    case.started.remove(process)
    result = evaluate(case)
    assert "of 3000 items were answered before" in result.stderr, "the killed run had ended"
    mine, whole = results(case)["results"], results(case, "whole")["results"]
    assert mine == whole


def test_routing(case):
    colours(case)
    model = mixture(case)
    evaluate(case, "--routing", "--limit", 2, model=model)
    half = results(case)["moerge"]["tasks"][0]["routing"]
    result = evaluate(case, "--routing", model=model)
    own = results(case)["moerge"]
    whole = own["tasks"][0]["routing"]
    assert (half["items"], whole["items"]) == (2, 4)
    for before, after in zip(half["layers"], whole["layers"], strict=True):
        assert len(after["tokens"]) == 4 and sum(after["tokens"]) > sum(before["tokens"]) > 0
        assert all(x <= y for x, y in zip(before["tokens"], after["tokens"]))
    # Two experts a token: every layer but the last sees all tokens that were computed.
    choices = [sum(layer["tokens"]) for layer in whole["layers"]]
    assert len(set(choices[:-1])) == 1 and choices[0] % 2 == 0 and choices[-1] <= choices[0], choices
    assert own["expert_names"] == ["code", "maths", "prose", "dialogue"], own["expert_names"]
    table = result.stdout[result.stdout.index("### Routing"):]
    shares = [float(cell) for cell in table.splitlines()[6].split("|")[3:-1]]
    assert "0 code" in table and len(shares) == 4 and abs(sum(shares) - 100) < 0.3, table
    expected = [sum(100 * layer["tokens"][e] / sum(layer["tokens"]) for layer in whole["layers"]) / len(whole["layers"]) for e in range(4)]
    assert all(abs(x - y) < 0.06 for x, y in zip(shares, expected)), (shares, expected)
    assert "<h2>Routing</h2>" in case.path("results/results.html").read_text()
    assert case.run("eval", "results").exits(0).stdout == result.stdout
    assert evaluate(case, "--routing", model=model).stdout.split("Elapsed")[0] == result.stdout.split("Elapsed")[0]


def test_routing_that_cannot_be_counted(case):
    colours(case)
    evaluate(case, "--routing").says("is no mixture of experts")
    model = mixture(case)
    evaluate(case, model=model, out="later")
    evaluate(case, "--routing", model=model, out="later").says("routing of 0 of 4 items", "another folder (--out)")
    assert "routing" not in results(case, "later")["moerge"]["tasks"][0]


def test_shots_and_limit(case):
    colours(case, TASK + "num_fewshot: 1\nfewshot_split: train\n")
    for split in ("test", "train"):
        case.write(f"{split}.jsonl", case.path("colours.jsonl").read_text())
    case.write("colours.yaml", case.path("colours.yaml").read_text().replace(
        "data_files: colours.jsonl", "data_files: [test.jsonl, train.jsonl]\ntest_split: test"))
    evaluate(case, "--limit", 2)
    assert results(case)["n-shot"]["colours"] == 1
    assert results(case)["n-samples"]["colours"] == {"original": 4, "effective": 2}
    evaluate(case, "--shots", 0)
    assert results(case)["n-shot"]["colours"] == 0


def test_items_that_a_task_leaves_out_do_not_count(case):
    colours(case, TASK + "process_docs: [{keep: \"{{ colour == 'blue' }}\"}]\n")
    assert "Not comparable" not in evaluate(case).stdout
    assert results(case)["n-samples"]["colours"] == {"original": 2, "effective": 2}
    assert "colours 1 of 2. Not comparable" in evaluate(case, "--limit", 1).stdout
    assert results(case)["n-samples"]["colours"] == {"original": 2, "effective": 1}


WRONG = {
    "misspelt key": (TASK.replace("doc_to_text", "doc_to_txt"), None, 2, "colours.yaml:4:1: ", "doc_to_text"),
    "template": (TASK.replace("{{thing}}", "{{thin}}"), None, 1, "colours, item 0 (colours.jsonl:1)", "doc_to_text", '"thin" is not defined'),
    "no such choice": (TASK, ['{"thing": "tar", "colour": "black"}'], 1, "colours, item 0 (colours.jsonl:1)", "black"),
    "item without an answer": (TASK, ['{"thing": "tar"}'], 1, "colours, item 0 (colours.jsonl:1)", 'no member "colour"'),
    "row that is none": (TASK, ['[1]'], 1, "colours.jsonl"),
    "no rows": (TASK, [], 1, "colours"),
    "no file": (TASK.replace("colours.jsonl", "missing.jsonl"), None, 1, "missing.jsonl"),
}


@rows(WRONG)
def test_bad_tasks(case, task, items, code, *words):
    colours(case, task, items)
    result = evaluate(case, code=code)
    for word in words:
        assert word in result.stderr, f"stderr does not say {word!r}:\n{result.stderr}"
    assert not case.path("results").exists()


def test_one_bad_task_does_not_stop_the_others(case):
    colours(case)
    case.write("bad.yaml", TASK.replace("colours", "bad", 1).replace("colours.jsonl", "missing.jsonl"))
    result = evaluate(case, "--tasks", "bad.yaml", code=1)
    assert "bad is left out" in result.stderr
    assert "acc,none" in results(case)["results"]["colours"]


def test_long_texts_are_cut_and_told(case):
    colours(case, items=[json.dumps({"thing": "a long story " * 200, "colour": "red"})])
    evaluate(case, "-c", 64).says("colours, item 0 (colours.jsonl:1): longer than the 64 tokens").says("with 1 of 1 items")


def test_unknown_names(case):
    for flags, words in ((["--tasks", "arc_esy"], "arc_easy"), (["--suite", "nouse"], "nous")):
        result = case.run("eval", dense(case), *flags).exits(2)
        assert words in result.stderr
    case.run("eval", dense(case)).exits(2).says("--suite")


def test_list(case):
    out = case.run("eval", "--list").exits(0).stdout
    for name in ("nous", "openllm", "eq-bench", "mmlu", "arc_challenge", "bigbench"):
        assert name in out


def test_results_again_and_compared(case):
    colours(case)
    shown = evaluate(case).stdout
    assert case.run("eval", "results").exits(0).stdout == shown
    evaluate(case, out="other", model=mixture(case))
    case.run("eval", "results", "--compare", "other").exits(0)
    page = case.path("results/results.html").read_text()
    assert mixture(case).stem in page and dense(case).stem in page


BUILT_IN = {  # task -> an item in the shape of its data set
    "arc_easy": {"question": "What melts?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "A"},
    "piqa": {"goal": "open a door", "sol1": "turn the handle", "sol2": "sing", "label": 0},
    "boolq": {"question": "is ice cold", "passage": "Ice -- Ice is cold.", "label": 1},
    "openbookqa": {"question_stem": "Birds can", "choices": {"text": ["fly", "read"], "label": ["A", "B"]}, "answerKey": "A"},
    "winogrande": {"sentence": "The cup did not fit because the _ was big.", "option1": "cup", "option2": "shelf", "answer": "1"},
    "gsm8k": {"question": "What is 1 and 1?", "answer": "1+1=2\n#### 2"},
}


def test_built_in_tasks_from_a_folder(case):
    case.path("data").mkdir()
    for task, item in BUILT_IN.items():
        case.write(f"data/{task}.jsonl", json.dumps(item) + "\n")
    case.run("eval", dense(case), "--tasks", ",".join(BUILT_IN), "--data", "data", "--shots", 0, "--out", "results").exits(0)
    found = results(case)["results"]
    assert set(found) >= set(BUILT_IN)
    assert "exact_match,strict-match" in found["gsm8k"] and "acc,none" in found["winogrande"]


def test_each_suite_has_a_folder(case):
    emotions = {f"emotion{i}{part}": value for i, name in enumerate("ABCD", 1) for part, value in (("", name), ("_score", i))}
    case.write("data/eq_bench.jsonl", json.dumps({"prompt": "How?", "reference_answer_fullscale": emotions}) + "\n")
    case.write("data/piqa.jsonl", json.dumps(BUILT_IN["piqa"]) + "\n")
    words = ["--suite", "eq-bench", "--tasks", "piqa", "--data", "data", "--out", "results"]
    shown = case.run("eval", dense(case), *words).exits(0).stdout
    assert set(results(case, "results/eq-bench")["results"]) == {"eq_bench"}
    assert set(results(case, "results/tasks")["results"]) == {"piqa"}
    assert shown == "\n".join(case.path(f"results/{name}/results.md").read_text() for name in ("eq-bench", "tasks"))
    case.run("eval", "results/tasks", "--compare", "results").exits(2).says("several suites; name one: results/eq-bench, results/tasks")


def test_data_set_of_the_hub(case):
    """Fetched once, its commit is in the results; one that needs a login is a sentence with the task's name."""
    repo = "datasets/tester/colours"
    items = "".join(json.dumps({"thing": thing, "colour": colour}) + "\n" for thing, colour in THINGS).encode()
    case.write("colours.yaml", TASK.replace("data_files: colours.jsonl", "dataset_path: tester/colours\ntest_split: test"))
    with a_hub(case, {"data/train.jsonl": b'{"thing": "tar"}\n', "data/test.jsonl": items}, repo=repo) as hub:
        evaluate(case)
        first = results(case)
        assert first["n-samples"]["colours"]["original"] == 4
        assert hub.head(repo) in json.dumps(first)
        hub.meta(repo, gated=True)
        case.environment["HF_HUB_OFFLINE"] = "1"
        evaluate(case, out="offline")
        assert results(case, "offline")["results"] == first["results"]
        del case.environment["HF_HUB_OFFLINE"]
        case.write("colours.yaml", case.path("colours.yaml").read_text().replace("tester/colours", "tester/others"))
        case.run("eval", dense(case), "--tasks", "colours.yaml").exits(1).says("colours is left out: ").says("there is no such data set")
    with a_hub(case, {"data/test.jsonl": items}, repo="datasets/tester/others") as hub:
        hub.meta("datasets/tester/others", gated=True)
        result = case.run("eval", dense(case), "--tasks", "colours.yaml").exits(1)
        assert "colours is left out: " in result.stderr and "the data set is gated: accept its licence at" in result.stderr
