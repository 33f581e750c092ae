#!/usr/bin/env python3
"""Times `moerge serve` against llama.cpp's own server of the same source, on the same GGUF and threads, and what it costs to be
told the routing; and how long `moerge chat` takes from its start to the first token.

usage: chat.py GGUF... --peer llama-server [--moerge BINARY] [--rounds 9] [--threads N] [--prompt 512] [--answer 128]

Both servers are up at once and asked in turn, so that a slow minute hits both: in every round the same prompt (another one each
round, so that nothing is cached) and the same number of answered tokens, at temperature 0. Tokens per second are those that the
servers tell. Prints medians, and medians of the ratios round by round. The peer: see docs/performance.md. Run it when nothing
else runs.
"""
import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time

WORDS = "the of a router sends each token to two experts and adds what they say while def return import number total she said".split()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def server(command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            time.sleep(0.1)
        else:
            sys.exit(f"{command[0]} did not start")
        yield
    finally:
        process.terminate()
        process.wait()


def ask(port, prompt, answer, **more):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"prompt": prompt, "max_tokens": answer, "temperature": 0, "ignore_eos": True, "cache_prompt": False, **more}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = json.loads(connection.getresponse().read())
    if "timings" not in response:
        sys.exit(f"no timings in {response}")
    return response["timings"]["prompt_per_second"], response["timings"]["predicted_per_second"]


def first_token(moerge, model):
    start = time.monotonic()
    process = subprocess.Popen([moerge, "chat", model, "--prompt", "Once", "--predict", "8", "--quiet"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    process.stdout.read(1)
    seconds = time.monotonic() - start
    process.communicate()
    return seconds


def measure(a, model):
    ports = [free_port(), free_port()]
    flags = ["--ctx-size", "4096", "--parallel", "1", "--threads", str(a.threads)]
    ours = [a.moerge, "serve", model, "--port", str(ports[0]), "--quiet", *flags]
    theirs = [a.peer, "-m", model, "--port", str(ports[1]), "--no-warmup", "--cache-ram", "0", "--kv-unified", *flags]
    cases = {"llama.cpp": (ports[1], {}), "moerge": (ports[0], {}), "moerge, routing told": (ports[0], {"routing": True})}
    rows = {name: [] for name in cases}
    dice = random.Random(1)
    with server(ours, ports[0]), server(theirs, ports[1]):
        for turn in range(a.rounds + 1):
            for name in (cases if turn % 2 else reversed(cases)):
                port, more = cases[name]
                if more and not a.routed:
                    continue
                prompt = " ".join(dice.choice(WORDS) for _ in range(a.prompt))
                speeds = ask(port, prompt, a.answer, **more)
                if turn:  # the first reads the file
                    rows[name].append(speeds)
    print(f"\n{os.path.basename(model)}, {a.threads} threads, {a.rounds} rounds\n")
    print("| | prompt tokens/s | answered tokens/s | ratio, prompt | ratio, answer |\n|---|---|---|---|---|")
    for name, speeds in rows.items():
        if not speeds:
            continue
        ratios = [[own[i] / peer[i] for own, peer in zip(speeds, rows["llama.cpp"])] for i in (0, 1)]
        print(f"| {name} | {statistics.median(s[0] for s in speeds):.1f} | {statistics.median(s[1] for s in speeds):.1f} | "
              + " | ".join(f"{statistics.median(r):.3f} ({min(r):.2f} to {max(r):.2f})" for r in ratios) + " |")
    if a.routed:
        costs = [told[1] / plain[1] for told, plain in zip(rows["moerge, routing told"], rows["moerge"])]
        print(f"\nRouting told costs {100 * (1 - statistics.median(costs)):.1f} % of the answer's speed.")
    starts = [first_token(a.moerge, model) for _ in range(a.rounds)]
    print(f"Start of `moerge chat` to its first token: {statistics.median(starts):.3f} s ({min(starts):.3f} to {max(starts):.3f}).")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--peer", required=True)
    parser.add_argument("--moerge", default="build/release/moerge")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt", type=int, default=512, help="words")
    parser.add_argument("--answer", type=int, default=128, help="tokens")
    parser.add_argument("--dense", dest="routed", action="store_false", help="the models have no experts")
    a = parser.parse_args()
    for model in a.models:
        measure(a, model)


if __name__ == "__main__":
    main()
