#!/usr/bin/env python3
"""32 clients at once ask moerge serve for a while, with random texts and lengths; some go away in the middle.

usage: serve_load.py MOERGE MODEL.gguf [SECONDS]     (120; a mixture, for the routing)

Prints requests, failures, tokens a second and the server's resident memory. Exits 1 when a request failed whose client had not
gone away, or when memory grew by more than 5 % + 8 MB between a quarter of the time and the end.
"""
import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time

CLIENTS = 32
WORDS = "the road a for in def return 12 apples She He user : ( ) name is of and table".split()
counts = {"requests": 0, "left": 0, "failed": 0, "tokens": 0}
reasons, guard = [], threading.Lock()


def resident(process):
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def count(**changes):
    with guard:
        for name, change in changes.items():
            counts[name] += change


def ask(port, chance):
    words = " ".join(chance.choices(WORDS, k=chance.randint(1, 120)))
    chat = chance.random() < 0.5
    body = {"messages": [{"role": "user", "content": words}]} if chat else {"prompt": words}
    body |= {"max_tokens": chance.randint(1, 60), "stream": chance.random() < 0.5, "routing": chance.random() < 0.3}
    leaves = chance.random() < 0.2
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/chat/completions" if chat else "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        if leaves:
            time.sleep(chance.random() * 0.3)
            if body["stream"]:
                connection.getresponse().read(chance.randint(1, 400))
            return count(left=1)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {text[:200]}")
        if body["stream"]:
            lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
            if lines[-1] != "[DONE]" or any("error" in json.loads(line) for line in lines[:-1]):
                raise ValueError(f"the stream ended with {lines[-1][:200]}")
            used = max(len(lines) - 2, 0)
        else:
            used = json.loads(text)["usage"]["completion_tokens"]
        count(requests=1, tokens=used)
    except Exception as error:
        count(failed=not leaves, left=leaves)
        reasons.append(None if leaves else repr(error))
    finally:
        connection.close()


def client(port, seed, end):
    chance = random.Random(seed)
    while time.monotonic() < end:
        ask(port, chance)


def main():
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 120
    process = subprocess.Popen([sys.argv[1], "serve", sys.argv[2], "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True)
    port = int(re.search(r"http://[^ ]+:(\d+)", process.stdout.readline())[1])
    start = time.monotonic()
    memory = {"start": resident(process)}
    threads = [threading.Thread(target=client, args=(port, seed, start + seconds)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for share in (25, 50, 100):
        time.sleep(max(0, start + seconds * share / 100 - time.monotonic()))
        memory[f"{share} %"] = resident(process)
    for thread in threads:
        thread.join()
    took = time.monotonic() - start
    process.terminate()
    code = process.wait(10)
    print(f"{counts['requests']} requests in {took:.0f} s, {counts['failed']} failed, {counts['left']} clients left early, "
          f"about {counts['tokens'] / took:.0f} tokens/s")
    print("resident memory: " + ", ".join(f"{size:.1f} MB at {when}" for when, size in memory.items()))
    for reason in [reason for reason in reasons if reason][:5]:
        print(reason)
    grown = memory["100 %"] > memory["25 %"] * 1.05 + 8
    if grown:
        print("memory grew")
    sys.exit(1 if counts["failed"] or grown or code != 0 else 0)


if __name__ == "__main__":
    main()
