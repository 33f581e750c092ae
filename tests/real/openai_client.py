#!/usr/bin/env python3
"""The official OpenAI client against moerge serve.

usage: openai_client.py MOERGE MODEL.gguf     (in a Python with openai==3.57.0: python3 -m venv VENV; VENV/bin/pip install openai==3.57.0)

Starts the server twice, with a key and without, and prints "N checks" at the end; any difference is an exception.
"""
import asyncio
import re
import subprocess
import sys

import openai

checks = 0


def check(fact, shown=None):
    global checks
    assert fact, shown
    checks += 1


def start(*flags):
    process = subprocess.Popen([sys.argv[1], "serve", sys.argv[2], "--port", "0", *flags], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    return process, re.search(r"(http://\S+/v1) \(API\)", process.stdout.readline())[1]


def stop(process):
    process.terminate()
    check(process.wait(10) == 0)


def raises(kind, action):
    try:
        action()
    except kind as error:
        check(error.body["message"], error)
        return error
    raise AssertionError(f"no {kind.__name__}")


def talk(client):
    usual = dict(model="any", messages=[{"role": "user", "content": "Hello there"}], max_tokens=12, temperature=0)
    answer = client.chat.completions.create(**usual)
    text = answer.choices[0].message.content
    check(text and answer.usage.completion_tokens <= 12)
    chunks = list(client.chat.completions.create(**usual, stream=True, stream_options={"include_usage": True}))
    check("".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text)
    check(chunks[-1].usage.completion_tokens == answer.usage.completion_tokens)
    tokens = client.chat.completions.create(**usual, logprobs=True, top_logprobs=4).choices[0].logprobs.content
    check(len(tokens) == answer.usage.completion_tokens and all(len(t.top_logprobs) == 4 for t in tokens))
    plain = client.completions.create(model="any", prompt="def f(x):", max_tokens=6, temperature=0, logprobs=3)
    check(plain.choices[0].text and plain.choices[0].logprobs)
    check(len(client.chat.completions.create(**usual, n=2).choices) == 2)
    check(len(client.models.list().data) == 1)
    with client.chat.completions.create(**{**usual, "max_tokens": 500}, stream=True) as stream:
        next(iter(stream))  # and goes away
    check(client.chat.completions.create(**usual).choices[0].message.content == text)
    raises(openai.BadRequestError, lambda: client.chat.completions.create(**{**usual, "temperature": "hot"}))
    raises(openai.BadRequestError, lambda: client.chat.completions.create(model="any", messages=[]))
    long = raises(openai.BadRequestError, lambda: client.completions.create(model="any", prompt=[5] * 200000))
    check(long.body["type"] == "exceed_context_size_error", long)
    raises(openai.NotFoundError, lambda: client.images.generate(prompt="a cat"))
    routed = list(client.chat.completions.create(**usual, stream=True, extra_body={"routing": True}))
    routing = [token for chunk in routed for token in (chunk.moerge["routing"] if hasattr(chunk, "moerge") else [])]
    check([token["index"] for token in routing] == list(range(len(routing))) and len(routing) > 0, routing)


async def together(address):
    client = openai.AsyncOpenAI(base_url=address, api_key="any", timeout=120, max_retries=0)

    async def one(number):
        stream = await client.chat.completions.create(model="any", max_tokens=16, stream=True,
                                                      messages=[{"role": "user", "content": f"{number} sheep"}])
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    check(len(await asyncio.gather(*map(one, range(16)))) == 16)


def main():
    process, address = start()
    try:
        talk(openai.OpenAI(base_url=address, api_key="any", timeout=60, max_retries=0))
        asyncio.run(together(address))
        stop(process)
        process, address = start("--api-key", "sesame")
        client = openai.OpenAI(base_url=address, api_key="wrong", timeout=60, max_retries=0)
        raises(openai.AuthenticationError, client.models.list)
        check(openai.OpenAI(base_url=address, api_key="sesame").models.list().data)
        stop(process)
    finally:
        process.kill()
    print(f"{checks} checks")


if __name__ == "__main__":
    main()
