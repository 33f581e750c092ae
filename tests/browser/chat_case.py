"""What a test of the chat page needs: servers, real and played, pages of them in a browser, and judgements of what they show."""
import json, os, re, subprocess, threading, urllib.request

from fake_server import FakeServer

CONTRAST = """(() => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const parse = text => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = text; paint.fillRect(0, 0, 1, 1);
    const c = paint.getImageData(0, 0, 1, 1).data; return [c[0], c[1], c[2], c[3] / 255]; };
  const f = x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const luminance = c => .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]);
  const behind = e => { const all = []; for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    all.unshift(c); if (c[3] === 1) break; }
    return all.reduce((below, c) => below.map((b, i) => c[i] * c[3] + b * (1 - c[3])), [255, 255, 255]); };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = {};
  let seen = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest('script, style, .unseen, :disabled')) continue;
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    seen++;
    if (ratio < 4.5) poor[e.tagName + '.' + e.className] = [Math.round(ratio * 100) / 100, walk.currentNode.data.slice(0, 20)];
  }
  return { seen, poor };
})()"""
OVERHANG = """[...document.querySelectorAll('html, body, header, #talk, #legend, #settings, #write, .message')]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map(e => e.tagName + '#' + e.id + '.' + e.className)"""


class Server:
    """moerge serve at a port of its own."""

    def __init__(self, binary, model, *flags):
        command = [binary, "serve", model, "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
        self.said, found = [], None
        while found is None and (line := self.process.stdout.readline()):
            self.said.append(line)
            found = re.search(r"http://[\d.:]+", line)
        assert found, "moerge serve did not start:\n" + "".join(self.said)
        self.url = found[0].rstrip("/") + "/"
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def get(self, path):
        return urllib.request.urlopen(self.url + path, timeout=60)

    def ask(self, **request):
        url, kind = self.url + "v1/chat/completions", {"Content-Type": "application/json"}
        return json.load(urllib.request.urlopen(urllib.request.Request(url, json.dumps(request).encode(), kind), timeout=120))

    def close(self):
        self.process.terminate()
        self.process.wait(20)


class Case:
    """What a test has: a browser, the server of all tests, and what it opened, which is closed behind it."""

    def __init__(self, browser, binary, model, server, page, policy, folder, keep):
        self.browser, self.binary, self.model, self.server, self.page, self.policy = browser, binary, model, server, page, policy
        self.folder, self.keep, self.opened, self.tabs = folder, keep, [], []

    def serve(self, *flags):
        self.opened.append(Server(self.binary, self.model, *flags))
        return self.opened[-1]

    def fake(self, answer, **info):
        self.opened.append(FakeServer(self.page, self.policy, answer, **info))
        return self.opened[-1]

    def open(self, server, ready=True, settings=None, **look):
        """The page. `settings`: what a reader would have set before."""
        tab = self.browser.open(server.url, **look)
        self.tabs.append(tab)
        if settings:
            tab.evaluate(f"settings = {json.dumps(settings)}; keepSettings()")
            tab.reload()
        if ready:
            tab.wait("!document.getElementById('send').disabled", "the model")
        return tab

    def imports(self, tab, messages):
        path = self.folder / "chat.json"
        path.write_text(json.dumps({"messages": messages}))
        tab.give_file("#file", path)
        count = sum(message["role"] != "system" for message in messages)
        tab.wait(f"document.querySelectorAll('.message').length === {count}", "the imported chat")

    def picture(self, tab, name):
        if self.keep:
            tab.picture(self.keep / f"{name}.png")

    def close(self):
        for thing in self.tabs + self.opened:
            thing.close()


def send(tab, text, wait=True):
    before = tab.evaluate("talk.length")
    tab.evaluate("document.getElementById('text').focus()")
    tab.type(text)
    tab.press("Enter")
    tab.wait(f"talk.length >= {before + 2} || document.querySelector('.note.bad')", "the message to be sent")
    if wait:
        finished(tab)


def finished(tab):
    tab.wait("!running", "the end of the answer", 120)


def last(tab):
    return tab.evaluate("talk.at(-1).content")


def quiet(tab, *expected):
    """Nothing ran that should not, nothing went wrong, nothing was loaded from elsewhere."""
    tab.evaluate("new Promise(done => setTimeout(done, 50))")
    assert tab.evaluate("window.ran") is None, "hostile text ran"
    wrong = [problem for problem in tab.problems if not any(part in problem for part in expected)]
    assert not wrong, "\n".join(wrong)
    home = tab.evaluate("location.origin") + "/"
    allowed = re.compile(re.escape(home) + r"(v1/(moerge|chat/completions))?|data:,|blob:.*")
    away = [url for url in tab.requests if not allowed.fullmatch(url)]
    assert not away, f"asked for {away}"


def shown_text(tab):
    return tab.evaluate("shown.at(-1).body.textContent")
