// The Hub's JavaScript client as a program.
//
// usage: js_client.mjs upload FOLDER USER/NAME [--private]     prints the commit
//        js_client.mjs download USER/NAME CACHE REVISION       prints the snapshot's folder
//
// HUB_JS is the folder that npm installed @huggingface/hub into; HF_ENDPOINT and HF_TOKEN as for every client.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import fs from "node:fs";
import path from "node:path";

const hub = createRequire(path.join(process.env.HUB_JS, "here.js"))("@huggingface/hub");
const [command, ...words] = process.argv.slice(2);
const access = { hubUrl: process.env.HF_ENDPOINT, accessToken: process.env.HF_TOKEN };
console.debug = () => {};

function filesOf(folder) {
  const names = fs.readdirSync(folder, { recursive: true }).sort();
  return names
    .filter((name) => fs.statSync(path.join(folder, name)).isFile())
    .map((name) => ({ path: name, content: pathToFileURL(path.resolve(folder, name)) }));
}

if (command === "upload") {
  const [folder, name, flag] = words;
  const repo = { type: "model", name };
  await hub.createRepo({ ...access, repo, private: flag === "--private" });
  const done = await hub.uploadFiles({ ...access, repo, files: filesOf(folder), commitTitle: "upload", useXet: false });
  console.log(done.commit.oid);
} else if (command === "download") {
  const [name, cacheDir, revision] = words;
  console.log(await hub.snapshotDownload({ ...access, repo: { type: "model", name }, cacheDir, revision }));
} else {
  throw new Error(`no such command: ${command}`);
}
