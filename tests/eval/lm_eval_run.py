"""Runs lm-evaluation-harness (PyPI: lm-eval 0.4.13, beside torch and transformers) and reads what it asked and was answered;
for the scripts beside this file and bench/eval.py."""
import json, os, pathlib, subprocess, sys, tempfile


def harness(python, model, tasks, folder, limit, shots, threads, batch=4):
    """([{task, item, context, continuation or until, value, greedy or text}], seconds of the whole run). `model`: a folder for
    transformers, run in float32 on the CPU; `folder`: definitions of tasks."""
    import time
    with tempfile.TemporaryDirectory() as out:
        command = [python, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
                   "--device", "cpu", "--batch_size", str(batch), "--tasks", tasks, "--num_fewshot", str(shots), "--limit", str(limit),
                   "--include_path", str(folder), "--log_samples", "--output_path", out]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": str(threads),
                       "TOKENIZERS_PARALLELISM": "false"}
        start = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.monotonic() - start
        if done.returncode:
            sys.exit(f"lm_eval failed:\n{done.stderr[-3000:]}")
        rows = []
        for file in sorted(pathlib.Path(out).rglob("samples_*.jsonl")):
            task = file.name.removeprefix("samples_").rsplit("_", 1)[0]
            for line in file.read_text().splitlines():
                rows += sample_rows(task, json.loads(line))
    return rows, seconds


def sample_rows(task, sample):
    for number, arguments in enumerate(sample["arguments"].values() if isinstance(sample["arguments"], dict) else sample["arguments"]):
        first, second = arguments.values() if isinstance(arguments, dict) else arguments
        row = {"task": task, "item": sample["doc_id"], "context": first}
        answer = sample["resps"][number][0]
        if isinstance(second, dict):
            until = second["until"]
            yield {**row, "until": [until] if isinstance(until, str) else until, "max_tokens": int(second.get("max_gen_toks", 256)),
                   "text": answer}
        else:
            yield {**row, "continuation": second, "value": float(answer[0]), "greedy": answer[1] in (True, "True")}


def ours(tool, gguf, rows, flags):
    """(our answers to the same requests, what the tool says of its run)"""
    asked = "".join(json.dumps({key: row[key] for key in ("context", "continuation", "until", "max_tokens") if key in row}) + "\n"
                    for row in rows)
    done = subprocess.run([tool, gguf, *flags], input=asked, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tool} failed: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()], json.loads(done.stderr.splitlines()[-1])
