"""A headless Chromium that a test types into and looks at, over the DevTools protocol: JSON with a zero byte behind each
message, through two pipes (https://chromedevtools.github.io/devtools-protocol/)."""
import base64, json, os, queue, shutil, subprocess, threading, time

TIMEOUT_S = 30
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "End": 35}


def find_browser():
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


class Browser:
    def __init__(self, program, profile):
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}", "about:blank"]
        # A browser reads from 3 and writes to 4.
        self.process = subprocess.Popen(["/bin/sh", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "sh", *command],
                                        pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(from_us)
        os.close(to_us)
        self.to = os.fdopen(to_browser, "wb", buffering=0)
        self.answers, self.number, self.tabs = queue.Queue(), 0, {}
        threading.Thread(target=self.read, args=(os.fdopen(from_browser, "rb", buffering=0),), daemon=True).start()

    def read(self, pipe):
        rest = b""
        while part := pipe.read(1 << 16):
            *messages, rest = (rest + part).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.answers.put(message)
                elif tab := self.tabs.get(message.get("sessionId")):
                    tab.heard(message["method"], message["params"])

    def call(self, method, session=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self.to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.answers.get(timeout=TIMEOUT_S)
            if answer["id"] == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, url, width=1200, height=900, dark=False):
        """A tab with storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        return Tab(self, context, url, width, height, dark)

    def close(self):
        try:
            self.call("Browser.close")
            self.process.wait(TIMEOUT_S)
        except Exception:
            self.process.kill()


class Tab:
    def __init__(self, browser, context, url, width, height, dark):
        self.browser, self.context = browser, context
        self.requests, self.problems = [], []
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.tabs[self.session] = self
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.look(width, height, dark)
        self.go(url)

    def heard(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:600])
        elif method == "Runtime.consoleAPICalled" or method == "Page.javascriptDialogOpening":
            self.problems.append(f"{method}: {json.dumps(params)[:300]}")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def look(self, width, height=900, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'", "the page to load")

    def reload(self):
        self.evaluate("window.old = true")
        self.call("Page.reload")
        self.wait("!window.old && document.readyState === 'complete'", "the page to load again")

    def evaluate(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, json.dumps(result["exceptionDetails"])[:600]
        return result["result"].get("value")

    def wait(self, script, what, seconds=TIMEOUT_S):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.evaluate(f"!!({script})"):
                    return
            except AssertionError as error:  # the page has just gone
                if "navigat" not in str(error) and "context" not in str(error):
                    raise
            time.sleep(0.03)
        raise AssertionError(f"waited {seconds} s in vain for {what}: {script}")

    def press(self, key, shift=False):
        more = {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def middle(self, selector):
        return self.evaluate(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{ block: 'nearest' }}); const r = e.getClientRects()[0];
            return [r.x + r.width / 2, r.y + r.height / 2]; }})()""")

    def hover(self, selector):
        x, y = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector):
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def give_file(self, selector, path):
        node = self.call("DOM.querySelector", nodeId=self.call("DOM.getDocument")["root"]["nodeId"], selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
