#!/usr/bin/env python3
"""Are generated answers read and scored as lm-eval reads them?

    answers.py LM_EVAL_PYTHON BUILD_FOLDER [EQ_BENCH_SCORING]

LM_EVAL_PYTHON: a Python that has lm-eval 0.4.13. BUILD_FOLDER: where `cmake --build ... --target eval_answers` has put its
program. EQ_BENCH_SCORING: lib/scoring.py of https://github.com/EQ-bench/EQ-Bench at d28c60c5, to compare with its own
formulas too. Several hundred texts, written below or varied from those by a fixed seed, go through both; every difference
is printed, and the exit code says whether there was one. One is known and left out: emotions scored in digits of other
scripts, which Python reads as numbers and moerge does not.
"""
import json, random, subprocess, sys
from pathlib import Path

NUMBERS = ["18", "-7", "1,234", "1,234.50", "$70,000", "3.", "0", "007", "12.5", "1e5", "½", "٣", "-", ".", ",", "5%", "(42)", "1 000"]
GSM8K = ["#### {n}", "The answer is {n}.", "So we get 3 + 4 = {n}\n#### {n}\n", "#### {n}\n#### 99", "####{n}", "##### {n}", "#### ${n}",
         "First 1, then 2, then {n} apples", "{n}", "#### {n}\n\nQuestion: How many 5s?", "a #### b\n#### {n} dollars", "ÄÖÜ {n} ß",
         "no number here", "", "   ", "\n\n#### \n{n}", "She has <<3*{n}=9>>9 left. #### {n}", "####\u00a0{n}", "#### {n}\r\n", "{n} {n} {n}..", "$$$ {n} ,,,",
         "Answer: **{n}**", "\u2212{n}", "#### {n}.\n"]
TARGETS = ["It is <<1+1=2>>2.\n#### 18", "#### 1,234", "x\n#### -7", "#### 70000", "#### 12.5", "#### 42", "#### 3"]

REFERENCE = {"emotion1": "Remorseful", "emotion2": "Indifferent", "emotion3": "Affectionate", "emotion4": "Annoyed",
             "emotion1_score": 0, "emotion2_score": "6", "emotion3_score": 2, "emotion4_score": "7"}
NORMALISED = REFERENCE | {"emotion1_score": 2, "emotion2_score": 3, "emotion3_score": 0, "emotion4_score": 5}
EMOTIONS = [REFERENCE[f"emotion{i}"] for i in range(1, 5)]
SHAPES = ["{e}: {s}\n", "{e}:{s}\n", "{e}:   {s}\n", "- {e}: {s}\n", "**{e}**: {s}\n", "{e}: **{s}**\n", "{e} : {s}\n", "{e}: {s}/10\n", "{e}: {s}.5\n",
          "{e}:\n{s}\n", "{e}: -{s}\n", "{e}:\u00a0{s}\n", "{e}: {s} ", "{e}={s}\n"]

LM_EVAL = r'''
import importlib.util, json, sys
import lm_eval.api.metrics as metrics
import lm_eval.filters.extraction as extraction
from pathlib import Path
import lm_eval, yaml
tasks = Path(lm_eval.__file__).parent / "tasks"
def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path); module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module
eq = load(tasks / "eq_bench/utils.py", "eq_utils")
repository = load(sys.argv[1], "scoring") if len(sys.argv) > 1 else None
config = yaml.safe_load(open(tasks / "gsm8k/gsm8k.yaml"))
filters = {f["name"]: extraction.RegexFilter(**{k: v for k, v in f["filter"][0].items() if k != "function"}) for f in config["filter_list"]}
options = {k: v for k, v in config["metric_list"][0].items() if k not in ("metric", "aggregation", "higher_is_better")}
out = sys.stdout; sys.stdout = sys.stderr
for line in sys.stdin:
    request = json.loads(line); text = request["text"]; doc = request["doc"]; answer = {"scores": {}}
    if request["task"] == "gsm8k":
        answer["found"] = {}
        for name, f in filters.items():
            found = list(f.apply([[text]], [doc]))[0][0]
            answer["found"][name] = found
            answer["scores"]["exact_match," + name] = float(metrics.exact_match_fn(predictions=[found], references=[doc["answer"]], **options)["exact_match"])
    else:
        scores = eq.calculate_score_fullscale(dict(doc, reference_answer_fullscale=repr(doc["reference_answer_fullscale"])), [text])
        answer["scores"] = {k + ",none": float(v) for k, v in scores.items()}
        if repository:
            user = repository.parse_answers(text, False)[0]
            for name, score in (("eqbench_v2", repository.calculate_score_fullscale(doc["reference_answer_fullscale"], dict(user))),
                                ("eqbench_v1", repository.calculate_score(doc["reference_answer"], dict(user)))):
                if score is not None: answer["scores"][name + ",none"] = 10 * score
    print(json.dumps(answer), file=out)
'''


def requests():
    rng = random.Random(7)
    out = []
    for shape in GSM8K:
        for number in NUMBERS:
            out.append({"task": "gsm8k", "text": shape.format(n=number), "doc": {"answer": rng.choice(TARGETS)}})
    for target in TARGETS:
        right = target.split("#### ")[-1]
        for shape in ("#### {n}", "It is ${n}.", "so {n}", "#### {n}."):
            out.append({"task": "gsm8k", "text": shape.format(n=right), "doc": {"answer": target}})
    doc = {"reference_answer_fullscale": REFERENCE, "reference_answer": NORMALISED}
    for _ in range(600):
        names = rng.sample(EMOTIONS, rng.choice([4, 4, 4, 4, 4, 3, 2]))
        if rng.random() < .15:
            names.append(rng.choice(EMOTIONS + ["Happy", "Ärger"]))
        if rng.random() < .1:
            names[0] = names[0].lower()
        shape = rng.choice(SHAPES) if rng.random() < .5 else SHAPES[0]
        text = "".join(shape.format(e=name, s=rng.choice([rng.randint(0, 10), rng.randint(0, 10), 0, 100, 5])) for name in names)
        if rng.random() < .2:
            text = "Sure! Here are my scores. Note: 4 emotions\n" + text
        out.append({"task": "eq_bench", "text": text, "doc": doc})
    return out


def main():
    python, build, *scoring = sys.argv[1:]
    asked = requests()
    lines = "".join(json.dumps(request) + "\n" for request in asked)
    run = lambda command: [json.loads(line) for line in subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout.splitlines()]
    ours, theirs = run([str(Path(build) / "src/eval/eval_answers")]), run([python, "-c", LM_EVAL, *scoring])
    assert len(ours) == len(theirs) == len(asked), (len(ours), len(theirs), len(asked))
    differences = readable = right = 0
    for request, our, their in zip(asked, ours, theirs):
        readable += "eqbench_v2,none" in our.get("scores", {})
        right += sum(value for key, value in our.get("scores", {}).items() if key.startswith("exact_match"))
        mine = {key: value for key, value in our.get("scores", {}).items() if scoring or not key.startswith("eqbench_v")}
        same = our.get("found") == their.get("found") and mine.keys() == their["scores"].keys()
        same = same and all(abs(mine[key] - their["scores"][key]) < 1e-9 for key in mine)
        if not same:
            differences += 1
            print(f"{request['task']}: {request['text']!r}\n  ours   {our}\n  lm-eval {their}")
    print(f"{len(asked)} answers ({sum(request['task'] == 'gsm8k' for request in asked)} of gsm8k, {int(right)} matches; {readable} readable of EQ-Bench), {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
