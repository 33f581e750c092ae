#!/usr/bin/env python3
"""Uses the chat page of `moerge serve` in a real browser, as a reader would: with keys, mouse and eyes.

usage: check_chat.py MOERGE_BINARY [-k NAME] [--keep FOLDER]

Needs Chromium (apt-get install chromium); without one it says so and exits 0. Not part of `make test`. Most tests talk to a real
server and the mixture of examples/family; what a server seldom does (hostile text, errors, 64 experts) is played by
fake_server.py, which serves the same page under the same policy. --keep leaves screenshots there.
Prints what failed and at the end "N passed, M failed".
"""
import argparse, json, re, subprocess, sys, tempfile, time, traceback
from pathlib import Path

sys.dont_write_bytecode = True
from chat_case import CONTRAST, OVERHANG, Case, Server, finished, last, quiet, send, shown_text
from devtools import Browser, find_browser
from fake_server import chunks

ROOT = Path(__file__).resolve().parent.parent.parent
LONG_WORD = "Donaudampfschifffahrt" * 40
HOSTILE = f"""<script>window.ran = 1</script><img src=x onerror="window.ran = 2"><svg onload="window.ran=3"></svg>
</p></div><iframe src="javascript:parent.ran=4"></iframe><style>body {{ display: none }}</style>

[a](javascript:window.ran=5) [b](JaVaScRiPt:window.ran=6) [c](data:text/html,<script>window.ran=7</script>) [d](vbscript:x)
[e](//elsewhere.example/x) ![pic](https://elsewhere.example/pic.png) ![pic](javascript:window.ran=8) <javascript:window.ran=9>
[f](https://elsewhere.example/"onmouseover="window.ran=10) [g](mailto:a@b.example) `<script>window.ran=11</script>`

```html"><script>window.ran=12</script>
<script>window.ran=13</script>
{"x" * 900}
```

| <img src=x onerror="window.ran=14"> | {LONG_WORD} |
|---|---|
| [h](java
script:window.ran=15) | x |

# {LONG_WORD}
> {LONG_WORD}
""" + "\u202eabc \U0001f600"
DEEP = {"quotes": ">" * 5000 + " x", "brackets": "[" * 8000, "stars": "*a " * 8000,
        "lists": "".join(" " * i + "- x\n" for i in range(300)),
        "backticks": "".join("`" * (i % 60 + 1) + " " for i in range(3000)), "bars": "|" * 8000 + "\n" + "|-" * 4000,
        "underscores": "_" * 8000 + "a" + "_a" * 4000, "links": "[a](" * 4000,
        "spaces": " " * 20000 + "x", "marks": "**a*b_c~~" * 2000}

COLD = {"system": "", "sampling": {"temperature": 0, "max_tokens": 40}, "theme": "auto", "colours": True}


# ------------------------------------------------------------------------------------------------------------ a real server


def test_answer_is_that_of_the_api(case):
    tab = case.open(case.server, settings=COLD)
    send(tab, "Once upon a time")
    answer = case.server.ask(messages=[{"role": "user", "content": "Once upon a time"}], temperature=0, max_tokens=40)
    expected = answer["choices"][0]["message"]["content"]
    assert last(tab) == expected, (last(tab), expected)
    assert shown_text(tab) == expected, "the page shows something else"
    end = tab.evaluate("document.querySelector('.assistant .foot .end').textContent")
    assert re.match(r"40 tokens, [\d.]+ tokens/s; prompt \d+ tokens, \d+ tokens/s; cut off", end), end
    spoken = tab.evaluate("document.getElementById('say').textContent")
    assert spoken == expected, f"a screen reader hears {spoken!r}"
    quiet(tab)


def test_every_token_has_its_expert(case):
    tab = case.open(case.server, settings=COLD)
    send(tab, "def add(a, b):")
    about = json.load(case.server.get("v1/moerge"))
    spans = tab.evaluate("[...document.querySelectorAll('.t')].map(e => [e.textContent, e.dataset.n, e.className])")
    assert len(spans) > 20 and all(n is not None for _, n, _ in spans[:-1]), spans
    answer = case.server.ask(messages=[{"role": "user", "content": "def add(a, b):"}], temperature=0, max_tokens=40, routing=True)
    routing = answer["moerge"]["routing"]
    pieces = tab.evaluate("talk.at(-1).pieces")
    for (_, number, style), piece in zip(spans, pieces):
        token = piece[1] - 1
        if token >= len(routing):
            continue
        sums = {}
        for chosen, weights in zip(routing[token]["experts"], routing[token]["weights"]):
            for expert, weight in zip(chosen, weights):
                sums[expert] = sums.get(expert, 0) + weight
        best = max(sums.values())
        assert best - sums[int(number)] < 0.02, (token, number, sums)
        assert f"x{int(number) % 8}" in style.split(), (number, style)
    legend = tab.evaluate("[...document.querySelectorAll('#legend li')].map(e => [...e.children].map(c => c.textContent))")
    assert len(legend) == about["experts"], legend
    for expert, name in enumerate(about.get("expert_names", [])):
        assert legend[expert][0] == f"{expert} {name}", legend
    assert abs(sum(int(row[1].removesuffix(" %")) for row in legend) - 100) <= 2, legend
    case.picture(tab, "experts")
    # With the mouse, then with keys: a row for each layer.
    tab.hover(".t:nth-of-type(5)")
    tab.wait("!document.getElementById('detail').hidden", "the token's layers")
    assert tab.evaluate("document.querySelectorAll('#detail .layer').length") == about["layers"]
    row = tab.evaluate("document.querySelector('#detail .layer').querySelectorAll('td').length")
    assert row == about["experts_per_token"], row
    case.picture(tab, "layers")
    tab.hover("#name")
    tab.wait("document.getElementById('detail').hidden", "the layers to go")
    tab.evaluate("document.querySelector('.t[tabindex=\"0\"]').focus()")
    for _ in range(3):
        tab.press("ArrowRight")
    assert tab.evaluate("document.activeElement === document.querySelectorAll('.t')[3]"), "the arrow key does not go on"
    assert "Token 4" in tab.evaluate("document.getElementById('detail').textContent")
    assert tab.evaluate("document.activeElement.getAttribute('aria-describedby')") == "detail"
    tab.press("Escape")
    assert tab.evaluate("document.getElementById('detail').hidden")
    # The same as Markdown, and back.
    tab.click("#see-formatted")
    assert tab.evaluate("document.querySelectorAll('.t').length === 0 && document.querySelectorAll('.md').length === 1")
    tab.click("#see-experts")
    assert tab.evaluate("document.querySelectorAll('.t').length") == len(spans)
    quiet(tab)


def test_without_the_switch_no_routing_is_asked_for(case):
    tab = case.open(case.server, settings=COLD | {"colours": False})
    send(tab, "Hello")
    assert tab.evaluate("talk.at(-1).routing === undefined && document.querySelectorAll('.t').length === 0")
    assert tab.evaluate("document.getElementById('legend').hidden")
    quiet(tab)


def test_stop(case):
    for way in ("the button", "Escape"):
        tab = case.open(case.server, settings=COLD | {"sampling": {"temperature": 0, "max_tokens": 4000}})
        send(tab, "Tell me everything", wait=False)
        tab.wait("talk.at(-1).content.length > 20", "text")
        tab.press("Escape") if way == "Escape" else tab.click("#stop")
        finished(tab)
        assert "stopped" in tab.evaluate("document.querySelector('.assistant .foot .end').textContent"), way
        length = len(last(tab))
        time.sleep(0.5)
        assert len(last(tab)) == length > 20, way
        # The server is free again, and the talk goes on.
        tab.evaluate("settings.sampling.max_tokens = 5")
        send(tab, "Go on")
        assert tab.evaluate("talk.length") == 4 and not tab.evaluate("!!document.querySelector('.note.bad')")
        quiet(tab)


def test_regenerate_and_edit(case):
    tab = case.open(case.server, settings=COLD)
    send(tab, "One")
    first = last(tab)
    tab.evaluate("settings.sampling.seed = 7, settings.sampling.temperature = 2")
    tab.click(".assistant.last .again")
    tab.wait("!!running", "the new answer")
    finished(tab)
    assert tab.evaluate("talk.length") == 2 and last(tab) != first, "the same answer"
    tab.evaluate("settings.sampling.temperature = 0")
    tab.click(".user.last .edits")
    assert tab.evaluate("document.activeElement.value") == "One", "the text to edit has no focus"
    tab.evaluate("document.activeElement.select()")
    tab.type("def add(a, b):")
    tab.press("Enter")
    tab.wait("!!running", "the new answer")
    finished(tab)
    assert tab.evaluate("talk.map(m => m.role).join()") == "user,assistant", "the old answer is still there"
    expected = case.server.ask(messages=[{"role": "user", "content": "def add(a, b):"}], temperature=0, seed=7, max_tokens=40)
    assert last(tab) == expected["choices"][0]["message"]["content"]
    quiet(tab)


def test_reload_keeps_the_talk(case):
    tab = case.open(case.server, settings=COLD)
    send(tab, "Once upon a time")
    before = tab.evaluate("[talk.at(-1).content, shown.at(-1).body.innerHTML, document.getElementById('legend').textContent]")
    tab.reload()
    tab.wait("!document.getElementById('send').disabled", "the model")
    after = tab.evaluate("[talk.at(-1).content, shown.at(-1).body.innerHTML, document.getElementById('legend').textContent]")
    assert before == after, (before, after)
    tab.click("#new")
    tab.reload()
    assert tab.evaluate("document.querySelectorAll('.message').length") == 0, "a new chat is not kept"
    quiet(tab)


def test_key_is_asked_for(case):
    server = case.serve("--api-key", "a-secret")
    tab = case.open(server, ready=False)
    tab.wait("document.getElementById('key-dialog').open", "the question for the key")
    case.picture(tab, "key")
    tab.type("wrong")
    tab.press("Enter")
    tab.wait("document.getElementById('key-dialog').open && document.getElementById('key').value === ''", "the question again")
    tab.type("a-secret")
    tab.press("Enter")
    tab.wait("!document.getElementById('send').disabled", "the model")
    tab.evaluate("settings.sampling = { max_tokens: 5 }")
    send(tab, "Hello")
    assert last(tab), "no answer"
    assert "a-secret" not in tab.evaluate("JSON.stringify(localStorage)"), "the key is kept for good"
    tab.reload()
    tab.wait("!document.getElementById('send').disabled", "the model, without a question")
    quiet(tab, "401")


def test_server_gone(case):
    server = case.serve()
    tab = case.open(server, settings=COLD | {"sampling": {"max_tokens": 100000}})
    send(tab, "Tell me everything", wait=False)
    tab.wait("talk.at(-1).content.length > 20", "text")
    server.process.kill()
    server.process.wait()
    finished(tab)
    said = tab.evaluate("document.querySelector('.note.bad').textContent")
    assert "broke off" in said, said
    kept = last(tab)
    assert len(kept) > 20, "what had come is lost"
    send(tab, "Hello?")
    said = tab.evaluate("document.querySelector('.note.bad').textContent")
    assert "does not answer" in said and "Try again" in said, said
    assert tab.evaluate("talk.at(-1).content") == "Hello?", "the question is lost"
    case.picture(tab, "gone")
    quiet(tab, "ERR_")


# --------------------------------------------------------------------------------------------------------- played by a fake


def words(*pieces):
    return lambda request, info: chunks(pieces, info, request["routing"])


def test_requests(case):
    server = case.fake(words("yes"))
    tab = case.open(server)
    tab.click("#open-settings")
    assert tab.evaluate("document.activeElement.id") == "system"
    tab.type("Be brief.")
    tab.evaluate("document.getElementById('s-top_k').focus()")
    tab.type("7")
    tab.evaluate("document.getElementById('s-top_p').focus()")
    tab.type("3")  # not allowed, and marked
    assert tab.evaluate("document.getElementById('s-top_p').matches(':invalid')")
    tab.evaluate("document.getElementById('text').focus()")
    tab.type("line one")
    tab.press("Enter", shift=True)
    tab.type("line two")
    tab.press("Enter")
    tab.wait("talk.length === 2 && !running", "the answer")
    send(tab, "again")
    first, second = server.asked
    assert first["messages"] == [{"role": "system", "content": "Be brief."},
                                 {"role": "user", "content": "line one\nline two"}], first
    assert first["top_k"] == 7 and "top_p" not in first and "temperature" not in first, first
    assert first["stream"] is True and first["routing"] is True and first["stream_options"] == {"include_usage": True}, first
    assert [m["content"] for m in second["messages"]] == ["Be brief.", "line one\nline two", "yes", "again"], second
    tab.reload()
    assert tab.evaluate("[$('system').value, $('s-top_k').value]") == ["Be brief.", "7"], "the settings are lost"
    tab.evaluate("window.saved = null; URL.createObjectURL = blob => { window.saved = blob; return 'data:,'; };"
                 "HTMLAnchorElement.prototype.click = () => {}; exportTalk()")
    exported = json.loads(tab.evaluate("window.saved.text()"))
    assert exported["messages"] == second["messages"] + [{"role": "assistant", "content": "yes"}], exported
    quiet(tab)


def test_hostile_text(case):
    pieces = re.findall(r"(?s).{1,7}", HOSTILE)
    for colours in (True, False):
        server = case.fake(words(*pieces), name=HOSTILE[:60], expert_names=[HOSTILE] * 4, template_note=HOSTILE)
        tab = case.open(server, settings=COLD | {"colours": colours})
        send(tab, HOSTILE.split("\n")[0])
        if colours:
            assert shown_text(tab) == HOSTILE, "text is lost"
            tab.hover(".t")
            tab.click("#see-formatted")
        links = tab.evaluate("[...document.querySelectorAll('#talk a')].map(a => [a.protocol, a.rel, a.target])")
        assert links and all(link == [link[0], "noopener noreferrer", "_blank"] for link in links), links
        assert {link[0] for link in links} <= {"https:", "http:", "mailto:"}, links
        made = tab.evaluate("document.querySelectorAll("
                            "'#talk :is(script, img, iframe, svg, style, object, embed, form, link, base)').length")
        assert made == 0 and tab.evaluate("document.scripts.length") == case.page.count(b"<script>"), "it made elements"
        attributes = tab.evaluate("[...document.querySelectorAll('#talk *')].flatMap(e => e.getAttributeNames())"
                                  ".filter(name => name.startsWith('on'))")
        assert not attributes, attributes
        assert "<script>window.ran = 1</script>" in shown_text(tab), "the text is not there as text"
        case.imports(tab, [{"role": role, "content": HOSTILE} for role in ("system", "user", "assistant")])
        quiet(tab)
        for width in (360, 400, 1200):
            tab.look(width)
            over = tab.evaluate(OVERHANG)
            assert not over, (width, over)
        case.picture(tab, "hostile")


def test_the_policy_holds(case):
    tab = case.open(case.fake(words("yes")))
    tab.evaluate("document.body.append(el('script', { textContent: 'window.ran = 1' }),"
                 "el('img', { src: 'https://elsewhere.example/' }))")
    refused = tab.evaluate("fetch('https://elsewhere.example/').then(() => false, () => true)")
    assert refused and tab.evaluate("window.ran") is None
    tab.wait("true", "the browser to say so")
    for part in ("xecuting inline script", "Loading the image", "Connecting to"):
        assert any(part in problem for problem in tab.problems), (part, tab.problems)
    for part in ("default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert part in case.policy, case.policy
    assert "unsafe-inline" not in re.search(r"script-src[^;]*", case.policy)[0], case.policy


def test_imports_that_are_none(case):
    tab = case.open(case.fake(words("yes")))
    for text in ("", "[]", '{"messages": 3}', '{"messages": [{"role": "tool", "content": ""}]}',
                 '{"messages": [{"role": "user", "content": [1]}]}'):
        (case.folder / "chat.json").write_text(text)
        tab.evaluate("removeComplaints()")
        tab.give_file("#file", case.folder / "chat.json")
        tab.wait("document.querySelector('.note.bad')", f"a complaint about {text!r}")
        assert "This is no chat" in tab.evaluate("document.querySelector('.note.bad').textContent")
    quiet(tab)
    # What is kept may be of another version, or broken.
    kept = [{"role": "assistant", "content": "x", "pieces": [["x", 1]], "routing": [{"experts": "?"}]}, {"role": "?"}, 3, None]
    tab.evaluate(f"window.addEventListener('pagehide', () => localStorage.setItem(TALK, {json.dumps(json.dumps(kept))}))")
    tab.reload()
    tab.wait("!document.getElementById('send').disabled", "the model")
    assert tab.evaluate("talk.length") == 1 and shown_text(tab) == "x"
    quiet(tab)


def test_markdown(case):
    tab = case.open(case.fake(words("yes"), experts=0))
    def rendered(text):
        return tab.evaluate(f"(() => {{ const to = el('div'); new Growing(to).set({json.dumps(text)}); return to.innerHTML; }})()")

    anchor = 'target="_blank" rel="noopener noreferrer"'
    for text, expected in {
        "# a *b*": "<h3>a <em>b</em></h3>",
        "a **b *c* d** __e__ _f_": "<p>a <strong>b <em>c</em> d</strong> <strong>e</strong> <em>f</em></p>",
        "***g*** ~~h~~": "<p><strong><em>g</em></strong> <del>h</del></p>",
        "2 * 3 * 4, snake_case_name, a*b": "<p>2 * 3 * 4, snake_case_name, a*b</p>",
        "\\*a\\* `*b*` ``c`d``": "<p>*a* <code>*b*</code> <code>c`d</code></p>",
        "a\nb\n\nc": "<p>a<br>b</p><p>c</p>",
        "- a\n  - b\n- c": "<ul><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ul>",
        "3. a\n4. b": '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>',
        "> a\n> > b": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
        "---": "<hr>",
        "[a](https://b.example/c_(d))": f'<p><a href="https://b.example/c_(d)" {anchor}>a</a></p>',
        "see https://b.example/x, y": f'<p>see <a href="https://b.example/x" {anchor}>https://b.example/x</a>, y</p>',
        "[a](b.html) [c](javascript:d)": "<p>[a](b.html) [c](javascript:d)</p>",
        "![a](https://b.example/c.png)": f'<p><a href="https://b.example/c.png" {anchor}>image: a</a></p>',
        "&lt;b&gt; <b>": "<p>&amp;lt;b&amp;gt; &lt;b&gt;</p>",
    }.items():
        assert rendered(text) == expected, f"{text!r}:\n  {rendered(text)}\n  {expected}"
    code = tab.evaluate("""(() => { const to = el('div'); new Growing(to).set("```py\\nif x: # 'y\\n  f('z', 12)\\n");
        const coloured = [...to.querySelectorAll('pre span')].map(e => e.className + e.textContent);
        return [to.querySelector('pre').textContent, coloured]; })()""")
    assert code == ["if x: # 'y\n  f('z', 12)\n", ["wif", "c# 'y", "s'z'", "n12"]], code
    table = rendered("| a | b\\|c |\n|:-:|--:|\n| 1 | **2** | 3 |\n\nx")
    assert '<th class="center">a</th><th class="right">b|c</th>' in table, table
    assert '<td class="right"><strong>2</strong></td></tr>' in table, table
    # What grows letter by letter ends as what was there at once.
    mixed = "# a\n\nx\n- b\n  - c\n\n  d\n1. e\n```\nf\n\n```\n| a | b |\n|---|---|\n| c | d |\n> g\nh\n\n---\n*i*\n"
    for text in (HOSTILE, mixed):
        same = tab.evaluate(f"""(() => {{ const text = {json.dumps(text)}, slow = el('div'), fast = el('div');
            const growing = new Growing(slow); for (let i = 0; i <= text.length; i++) growing.set(text.slice(0, i));
            new Growing(fast).set(text); return slow.innerHTML === fast.innerHTML || [slow.innerHTML, fast.innerHTML]; }})()""")
        assert same is True, same
    for name, text in DEEP.items():
        took = tab.evaluate(f"(() => {{ const t = performance.now(); new Growing(el('div')).set({json.dumps(text)});"
                            "return performance.now() - t; })()")
        assert took < 1500, f"{name}: {took:.0f} ms"
    quiet(tab)


def test_code_can_be_copied(case):
    tab = case.open(case.fake(words("```py\nx = 1\n```\n"), experts=0))
    send(tab, "code")
    tab.browser.call("Browser.grantPermissions", browserContextId=tab.context,
                     permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    tab.click(".code button")
    tab.wait("document.querySelector('.code button').textContent === 'Copied'", "the button to say so")
    assert tab.evaluate("navigator.clipboard.readText()") == "x = 1", "something else was copied"


def test_errors(case):
    server = case.fake(words("yes"))
    server.loading = 2
    tab = case.open(server, ready=False)
    tab.wait("document.getElementById('facts').textContent.includes('loading')", "the word that the model loads")
    tab.wait("!document.getElementById('send').disabled", "the model")
    server.refusal = (400, "the request has 9999 tokens, the context 8192")
    send(tab, "Hello")
    said = tab.evaluate("document.querySelector('.note.bad').textContent")
    assert "the request has 9999 tokens" in said, said
    assert tab.evaluate("document.querySelector('.note.bad').getAttribute('role')") == "alert"
    server.refusal = None
    tab.click(".note.bad button")
    tab.wait("talk.length === 2 && !running", "the answer after all")
    assert last(tab) == "yes" and not tab.evaluate("!!document.querySelector('.note.bad')")

    def breaks(request, info):
        yield from list(chunks(["half ", "an"], info, True))[:2]
        yield b": a comment\n\n"
        yield {"error": {"code": 500, "message": "out of memory", "type": "server_error"}}
    server.answer = breaks
    send(tab, "More")
    assert "out of memory" in tab.evaluate("document.querySelector('.note.bad').textContent") and last(tab) == "half an"
    quiet(tab, "400", "503")


def test_pieces_of_several_tokens_and_thoughts(case):
    def answer(request, info):
        for chunk in chunks([{"reasoning_content": "Hm"}, "abc", " def"], info, True):
            told = chunk.get("moerge")
            if told and told["tokens"] >= 2:  # the second piece ends with token 3
                told["tokens"] += 1
                known = {2: [0], 3: [1, 2]}[told["tokens"] - 1]
                told["routing"] = told["routing"] and [told["routing"][0] | {"index": i} for i in known]
            yield chunk
    tab = case.open(case.fake(answer))
    send(tab, "Hello")
    assert tab.evaluate("[talk.at(-1).reasoning, document.querySelector('.thought div').textContent]") == ["Hm", "Hm"]
    assert tab.evaluate("[...document.querySelectorAll('.tokens .t')].map(e => e.textContent)") == ["abc", " def"]
    tab.hover(".tokens .t")
    assert tab.evaluate("document.querySelectorAll('#detail table').length") == 2, "two tokens are in it"
    assert tab.evaluate("document.querySelectorAll('#detail .layer').length") == 6
    quiet(tab)


def test_a_dense_model_and_one_without_a_template(case):
    server = case.fake(words("x"), experts=0, layers=0, chat_template=False, template_note="", expert_names=None)
    tab = case.open(server)
    assert "continues the text" in tab.evaluate("document.getElementById('template-note').textContent")
    assert tab.evaluate("$('legend').hidden && $('views').hidden && $('colours-row').hidden")
    send(tab, "Once")
    assert last(tab) == "x" and server.asked[0]["routing"] is False
    quiet(tab)


def test_many_experts(case):
    tab = case.open(case.fake(words(*(f"{i} " for i in range(80))), experts=64, layers=48, expert_names=None), width=400)
    send(tab, "Hello")
    assert tab.evaluate("document.querySelectorAll('#legend li').length") == 64
    assert tab.evaluate("getComputedStyle(document.querySelector('.t[data-n=\"17\"]'), '::after').content") == '"17"', "no number"
    tab.hover(".t:nth-of-type(18)")
    box = tab.evaluate("(r => [r.left, r.top, r.right, r.bottom])(document.getElementById('detail').getBoundingClientRect())")
    assert box[0] >= 0 and box[1] >= 0 and box[2] <= 400 and box[3] <= 900, box
    assert tab.evaluate("document.querySelectorAll('#detail .layer').length") == 48
    assert not tab.evaluate(OVERHANG)
    case.picture(tab, "many")
    quiet(tab)


def test_long_answers_stay_fast(case):
    pieces = [f" word{i}" if i % 40 else "\n\n- *item*" for i in range(4000)]
    for colours in (True, False):
        tab = case.open(case.fake(words(*pieces), layers=16), settings=COLD | {"colours": colours})
        tab.evaluate("window.slow = 0; new PerformanceObserver(list => list.getEntries().forEach(task =>"
                     "window.slow = Math.max(window.slow, task.duration))).observe({ type: 'longtask' })")
        began = time.monotonic()
        send(tab, "Hello")
        took, slow = time.monotonic() - began, tab.evaluate("window.slow")
        assert last(tab) == "".join(pieces) and tab.evaluate("document.querySelectorAll('.t').length") == (4000 if colours else 0)
        assert took < 15 and slow < 2000, f"{took:.1f} s, the longest pause {slow:.0f} ms"
        quiet(tab)


def test_light_and_dark_narrow_and_wide(case):
    text = ("# Title\n\nText **bold** `code` [link](https://a.example)\n\n```py\ndef f(x):  # why\n    return 'a' + 12\n```\n\n"
            "> quote\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n" + LONG_WORD)
    for dark in (False, True):
        for width in (360, 400, 1200):
            for view in ("experts", "formatted"):
                server = case.fake(words(*re.findall(r"(?s)\s*.{1,9}", text)), experts=9, expert_names=None)
                tab = case.open(server, settings=COLD | {"view": view}, width=width, dark=dark)
                send(tab, "A question " + LONG_WORD)
                what = f"{'dark' if dark else 'light'}, {width}, {view}"
                case.picture(tab, what.replace(", ", "-"))
                for part in ("answer", "layers", "settings"):
                    if part == "layers" and view == "experts":
                        tab.hover(".t")
                    if part == "settings":
                        tab.click("#open-settings")
                        case.picture(tab, what.replace(", ", "-") + "-settings")
                    found = tab.evaluate(CONTRAST)
                    assert found["seen"] > 20 and not found["poor"], f"{what}, {part}: hard to read: {found['poor']}"
                    over = tab.evaluate(OVERHANG)
                    assert not over, f"{what}, {part}: hangs over: {over}"
                paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == dark, (what, paper)
                quiet(tab)
    tab.evaluate("document.getElementById('theme').click()")  # dark system, light page
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.reload()
    assert tab.evaluate("document.documentElement.dataset.theme") == "light", "the theme is lost"


def test_keyboard(case):
    tab = case.open(case.fake(words("yes")))
    send(tab, "Hello")
    tab.evaluate("document.body.focus(), document.activeElement.blur()")
    reached, lacking = [], []
    for _ in range(25):
        tab.press("Tab")
        name, outline = tab.evaluate("(e => [e === document.body ? '' : e.id || e.textContent,"
                                      "getComputedStyle(e).outlineStyle])(document.activeElement)")
        reached.append(name)
        if outline == "none":
            lacking.append(name)
    wanted = ["see-experts", "new", "theme", "open-settings", "talk", "Edit", "Copy", "yes", "Regenerate", "text", "send"]
    assert all(name in reached for name in wanted), reached
    assert not [name for name in lacking if name], f"focus cannot be seen on {lacking}"
    quiet(tab)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="MOERGE_BINARY", type=Path)
    parser.add_argument("-k", metavar="NAME", default="", help="only tests with this in their names")
    parser.add_argument("--keep", type=Path)
    a = parser.parse_args()
    program = find_browser()
    if not program:
        print("skipped: no Chromium on this machine (apt-get install chromium)\n0 passed, 0 failed")
        return
    if a.keep:
        a.keep.mkdir(parents=True, exist_ok=True)
    passed = failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder, binary = Path(temporary), a.binary.resolve()
        model = folder / "family.gguf"
        subprocess.run([binary, "gguf", ROOT / "examples/family/moe.yaml", model, "--type", "f16", "--quiet"], check=True)
        server = Server(binary, model, "--show-routing")
        browser = Browser(program, folder / "profile")
        try:
            with server.get("") as answer:
                page, policy = answer.read(), answer.headers["Content-Security-Policy"]
            for name, test in [item for item in globals().items() if item[0].startswith("test_") and a.k in item[0]]:
                case = Case(browser, binary, model, server, page, policy, folder, a.keep)
                try:
                    test(case)
                    passed += 1
                except Exception as error:
                    failed += 1
                    where = "" if isinstance(error, AssertionError) else traceback.format_exc()
                    print(f"FAIL {name}\n{error}\n{where}", flush=True)
                finally:
                    case.close()
        finally:
            browser.close()
            server.close()
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
