"""Small data sets for the fake Hub under the names, in the layouts and with the columns that the tasks of the Nous suite and
EQ-Bench ask for (moerge/eval/tasks). The items are ours, made by rule of what the experts of examples/family know.

Every layout that these data sets have on the Hub is there: configurations in the card, file names that say the split, a Python
program whose rows the Hub keeps as Parquet.
"""
import json, random, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
from tiny_parquet import parquet

ITEMS = 8  # of each split
OBJECTS = {"three": 3, "five": 3, "seven": 2}  # of these, how many have so many objects
LETTERS = "ABCDE"

# Domain -> beginnings and how they go on.
PAIRS = {
    "code": [
        ("def add(self, other):\n        return", "self.value + other.value"),
        ("import os\nimport sys\nfrom", "collections import deque"),
        ("    if value is None:\n        raise", "ValueError('value is missing')"),
        ("    for name in sorted(names):\n        print", "(name, file=self.out)"),
        ("class Reader:\n    def __init__(self,", "path, encoding=None):"),
        ("    try:\n        return self._files[key]\n    except", "KeyError:\n        pass"),
    ],
    "maths": [
        ("Ben buys 4 bags with 6 apples in each bag, so he has", "4*6=24 apples"),
        ("Ann earns $12 an hour. In 5 hours she makes", "12*5=$60"),
        ("A book costs $8. Three books cost", "8*3=$24"),
        ("There are 30 birds and 12 fly away, so there are", "30-12=18 birds left"),
        ("He runs 3 miles a day. In a week he runs", "3*7=21 miles"),
        ("Half of the 40 children are girls, which is", "40/2=20 girls"),
    ],
    "prose": [
        ("The old man looked at her for a long time, and then he", "turned away with a sigh."),
        ("It was late in the evening when the carriage", "came slowly up the hill."),
        ("She had never been so happy, and yet there was", "something of sorrow in her face."),
        ("He opened the door of the little room, and saw that", "the fire had gone out."),
        ("In those days there lived in the village", "a poor widow and her son."),
        ("“You are very kind,” said the young lady, and", "she gave him her hand."),
    ],
    "dialogue": [
        ("USER: I would like to book a table for four.\nSYSTEM:", "In which city should I look for a restaurant?"),
        ("USER: Can you find me a flight to Boston?\nSYSTEM:", "Sure, when would you like to leave?"),
        ("SYSTEM: Is there anything else I can help you with?\nUSER:", "No, that is all. Thank you."),
        ("USER: What is the weather like on Friday?\nSYSTEM:", "The average temperature should be 70 degrees."),
        ("USER: Play a song for me please.\nSYSTEM:", "Which song would you like to hear?"),
        ("USER: How much is the ticket?\nSYSTEM:", "The ticket costs $30 per person."),
    ],
}


class Maker:
    """Items of one task; the same for the same name."""

    def __init__(self, name):
        self.random = random.Random(name)

    def continuation(self, i):
        """A beginning, four endings of which one belongs to it, and the number of that one."""
        domains = list(PAIRS)
        domain = domains[i % len(domains)]
        begin, right = self.random.choice(PAIRS[domain])
        endings = [right] + [self.random.choice(PAIRS[other])[1] for other in domains if other != domain]
        self.random.shuffle(endings)
        return begin, endings, endings.index(right)

    def sum(self):
        """A question, five answers, and the number of the right one."""
        boxes, each = self.random.randint(2, 9), self.random.randint(3, 12)
        answers = self.random.sample(sorted({boxes * each + off for off in range(-6, 7) if off}), 4) + [boxes * each]
        self.random.shuffle(answers)
        question = f"Anna buys {boxes} boxes with {each} pencils in each box. How many pencils does she have in total?"
        return question, [str(it) for it in answers], answers.index(boxes * each)

    def order(self, count):
        """Books on a shelf, what may be said of one, and the number of what is true."""
        colours = self.random.sample(["red", "blue", "green", "black", "white", "brown", "yellow"], count)
        text = " ".join(f"The {left} book is left of the {right} book." for left, right in zip(colours, colours[1:]))
        choices = [f"The {it} book is the leftmost." for it in self.random.sample(colours, count)]
        return f"On a shelf there are {count} books. {text}", choices, choices.index(f"The {colours[0]} book is the leftmost.")

    def claim(self, yes, no):
        """A statement on a sum, and whether it holds."""
        one, two, off = self.random.randint(2, 20), self.random.randint(2, 20), self.random.choice([0, 0, 1, 5])
        return f"There are {one} apples and {two} pears, which is {one}+{two}={one + two + off}.", [yes, no], int(off > 0)


def agieval(name):
    make, rows = Maker(name), []
    for _ in range(ITEMS):
        question, answers, right = make.sum()
        options = [f"({letter}){answer}" for letter, answer in zip(LETTERS, answers)]
        query = f"Q: {question} Answer Choices: {' '.join(options)}\nA: Among A through E, the answer is"
        rows.append((query, options, [right]))
    queries, choices, gold = zip(*rows)
    return parquet([("query", "text", queries), ("choices", "texts", choices), ("gold", "ints", gold)])


def graded(name, rule):
    make = Maker(name)
    inputs, choices, right = zip(*(rule(make, i) for i in range(ITEMS)))
    scores = [[int(k == answer) for k in range(len(options))] for options, answer in zip(choices, right)]
    targets = [[options[answer]] for options, answer in zip(choices, right)]
    return parquet([("idx", "int", range(ITEMS)), ("inputs", "text", inputs), ("targets", "texts", targets),
                    ("multiple_choice_targets", "texts", choices), ("multiple_choice_scores", "ints", scores)])


def asked(rule):
    def item(make, i):
        text, choices, right = rule(make, i)
        return f"Q: {text}\nA:", choices, right
    return item


# Configuration of hails/bigbench -> rule.
SUMS = asked(lambda make, i: make.sum())
ENDINGS = asked(lambda make, i: make.continuation(i))
ORDERS = asked(lambda make, i: make.order((3, 5, 7)[i % 3]))  # OBJECTS
BIGBENCH = {
    "causal_judgment": asked(lambda make, i: make.claim("Yes", "No")), "date_understanding": SUMS,
    "disambiguation_qa": ENDINGS, "geometric_shapes": SUMS, "logical_deduction": ORDERS, "movie_recommendation": ENDINGS,
    "navigate": asked(lambda make, i: make.claim("True", "False")), "reasoning_about_colored_objects": SUMS,
    "ruin_names": ENDINGS, "salient_translation_error_detection": ENDINGS, "snarks": ENDINGS,
    "sports_understanding": asked(lambda make, i: make.claim("plausible", "implausible")), "temporal_sequences": SUMS,
    "tracking_shuffled_objects": ORDERS,
}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def card(configurations):
    """A README.md: configuration -> {split: path}."""
    rows = [{"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
            for name, files in configurations.items()]
    return f"---\nconfigs: {json.dumps(rows)}\n---\n# Items for tests\n".encode()


def options(endings):
    return {"text": endings, "label": list(LETTERS[:len(endings)])}


def school(name):
    make = Maker(name)
    return lines({"question": text, "choices": options(choices), "answerKey": LETTERS[right]} for text, choices, right in
                 (make.sum() if i % 2 else make.continuation(i) for i in range(ITEMS)))


def endings(name):
    make = Maker(name)
    begin, choices, right = zip(*(make.continuation(i) for i in range(ITEMS)))
    count = range(ITEMS)
    return parquet([("ind", "int", count), ("activity_label", "text", ["Reading" for _ in count]), ("ctx_a", "text", begin),
                    ("ctx_b", "text", ["" for _ in count]), ("endings", "texts", choices),
                    ("label", "text", [str(it) for it in right])])


def open_book(name):
    make = Maker(name)
    return lines({"question_stem": begin, "choices": options(choices), "answerKey": LETTERS[right]}
                 for begin, choices, right in (make.continuation(i) for i in range(ITEMS)))


def two_ways(name):
    make, rows = Maker(name), []
    for i in range(ITEMS):
        begin, choices, right = make.continuation(i)
        other = choices[right - 1]
        rows.append((begin, choices[right], other, 0) if i % 3 else (begin, other, choices[right], 1))
    goal, first, second, label = zip(*rows)
    return parquet([("goal", "text", goal), ("sol1", "text", first), ("sol2", "text", second), ("label", "int", label)])


def gaps(name):
    make, rows = Maker(name), []
    for i in range(ITEMS):
        one, two = make.random.sample(["cup", "box", "book", "lamp", "chair", "bag"], 2)
        big = make.random.random() < 0.5
        sentence = f"The {one} did not fit into the {two} because the _ was too {'big' if big else 'small'}."
        rows.append((sentence, one, two, "1" if big else "2"))
    columns = zip(("sentence", "option1", "option2", "answer"), zip(*rows))
    return parquet([(column, "text", values) for column, values in columns])


def passages(name):
    make, rows = Maker(name), []
    for _ in range(ITEMS):
        claim, _, wrong = make.claim("yes", "no")
        rows.append(("is the sum right", f"Apples and pears -- {claim}", int(not wrong)))
    question, passage, label = zip(*rows)
    return parquet([("question", "text", question), ("passage", "text", passage), ("label", "int", label)])


def truths(name):
    make, rows = Maker(name), []
    for _ in range(ITEMS):
        question, answers, right = make.sum()
        true, false = answers[right], [it for it in answers if it != answers[right]]
        rows.append({"question": question, "mc1_targets": {"choices": [true, *false], "labels": [1, 0, 0, 0, 0]},
                     "mc2_targets": {"choices": [true, f"She has {true}", *false], "labels": [1, 1, 0, 0, 0, 0]}})
    return lines(rows)


def feelings(name):
    make, rows = Maker(name), []
    for _ in range(ITEMS):
        emotions = make.random.sample(["Happy", "Sad", "Angry", "Calm", "Proud", "Afraid"], 4)
        begin, right = make.random.choice(PAIRS["dialogue"])
        answer = {f"emotion{k + 1}": emotion for k, emotion in enumerate(emotions)}
        answer |= {f"emotion{k + 1}_score": make.random.randint(0, 10) for k in range(4)}
        form = "\n".join(f"{emotion}: <score>" for emotion in emotions)
        prompt = f"How does USER feel, from 0 to 10?\n{begin} {right}\n\nAnswer in this form:\n{form}\n\nAnswer:\n"
        rows.append({"prompt": prompt, "reference_answer_fullscale": repr(answer)})
    return lines(rows)


def data_sets():
    """Repository -> branch -> path -> content."""
    shard = "{}-00000-of-00001.parquet"
    out = {f"hails/agieval-{name}": {"main": {"data/" + shard.format("test"): agieval(name)}} for name in
           ("aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-en-without-passage", "sat-math")}
    bigbench = {f"{name}_zero_shot": graded(name, rule) for name, rule in BIGBENCH.items()}
    out["hails/bigbench"] = {"main": {
        "README.md": card({name: {"default": f"{name}/default-*"} for name in bigbench}),
        **{f"{name}/{shard.format('default')}": content for name, content in bigbench.items()}}}
    out["allenai/ai2_arc"] = {"main": {
        "README.md": card({name: {"test": f"{name}/test*"} for name in ("ARC-Easy", "ARC-Challenge")}),
        **{f"{name}/test.jsonl": school(name) for name in ("ARC-Easy", "ARC-Challenge")}}}
    out["aps/super_glue"] = {"main": {"README.md": card({"boolq": {"validation": "boolq/validation-*"}}),
                                      f"boolq/{shard.format('validation')}": passages("boolq")}}
    out["Rowan/hellaswag"] = {"main": {"data/" + shard.format("validation"): endings("hellaswag")}}
    out["allenai/openbookqa"] = {"main": {"README.md": card({"main": {"test": "main/test*"}}),
                                          "main/test.jsonl": open_book("openbookqa")}}
    out["baber/piqa"] = {"main": {"data/" + shard.format("validation"): two_ways("piqa")}}
    out["allenai/winogrande"] = {"main": {"winogrande.py": b"raise SystemExit('nobody runs this')\n"},
                                 "refs/convert/parquet": {"winogrande_xl/validation/0000.parquet": gaps("winogrande")}}
    out["truthfulqa/truthful_qa"] = {"main": {
        "README.md": card({"multiple_choice": {"validation": "multiple_choice/validation*"}}),
        "multiple_choice/validation.jsonl": truths("truthfulqa")}}
    out["pbevan11/EQ-Bench"] = {"main": {"data/validation.jsonl": feelings("eq-bench")}}
    return out


def seed(hub, folder):
    """Puts them all on the Hub; repository -> commit of the branch whose rows are asked."""
    commits = {}
    for repo, branches in data_sets().items():
        for branch, files in branches.items():
            source = Path(folder) / repo / branch
            for path, content in files.items():
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                (source / path).write_bytes(content)
            commits[repo] = hub.seed(f"datasets/{repo}", source, branch=branch)
    return commits
