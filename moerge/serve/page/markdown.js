"use strict";
// Markdown as elements of the page. What a model writes becomes text nodes and elements made here, never HTML: it cannot run or
// load anything.

// An element with properties and children; strings become text.
function el(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function button(text, action, more) { return el("button", { type: "button", textContent: text, onclick: action, ...more }); }

const MAX_DEPTH = 10;  // of what is nested; deeper is text

const BULLET = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const isRule = line => /^(-{3,}|\*{3,}|_{3,})$/.test(line.replace(/\s/g, ""));
const isFence = line => /^ {0,3}(`{3,}[^`]*|~{3,}.*)$/.test(line);
const isTable = (lines, i) => i + 1 < lines.length && lines[i].includes("|") && lines[i + 1].includes("-") &&
  lines[i + 1].includes("|") && lines[i + 1].split("|").every(cell => /^(:?-+:?)?$/.test(cell.trim()));
const indent = line => line.length - line.trimStart().length;

// What ends a paragraph.
function begins(lines, i) {
  const line = lines[i], bullet = BULLET.exec(line);
  return /^ {0,3}(#{1,6}\s|>)/.test(line) || isFence(line) || isRule(line) || isTable(lines, i) ||
    (bullet && bullet[0].length < line.length && (bullet[2].length === 1 || bullet[2].startsWith("1")));
}

// The blocks of these lines: [[number of its first line, element], ...].
function blocks(lines, depth) {
  const out = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i], first = i;
    if (!line.trim()) { i++; continue; }
    let node, heading;
    if (isFence(line)) {
      const fence = /[`~]+/.exec(line)[0], inside = [], by = indent(line);
      const closes = text => text.length >= fence.length && text === fence[0].repeat(text.length);
      for (i++; i < lines.length && !closes(lines[i].trim()); i++)
        inside.push(lines[i].slice(Math.min(by, indent(lines[i]))));
      i++;
      node = codeBlock(inside.join("\n"), line.trim().slice(fence.length).trim().split(/[\s{,]/)[0].toLowerCase());
    } else if ((heading = /^ {0,3}(#{1,6})\s+(\S.*)$/.exec(line))) {
      node = el("h" + Math.min(6, heading[1].length + 2));
      inline(heading[2], node, depth);
      i++;
    } else if (isRule(line)) {
      node = el("hr");
      i++;
    } else if (depth < MAX_DEPTH && /^ {0,3}>/.test(line)) {
      const inside = [];
      for (; i < lines.length && lines[i].trim() && (/^ {0,3}>/.test(lines[i]) || !begins(lines, i)); i++)
        inside.push(lines[i].replace(/^ {0,3}> ?/, ""));
      node = el("blockquote", {}, ...blocks(inside, depth + 1).map(block => block[1]));
    } else if (depth < MAX_DEPTH && BULLET.test(line)) {
      [node, i] = list(lines, i, depth);
    } else if (isTable(lines, i)) {
      [node, i] = table(lines, i, depth);
    } else {
      const inside = [line.trimStart()];
      for (i++; i < lines.length && lines[i].trim() && !begins(lines, i); i++) inside.push(lines[i].trimStart());
      node = el("p");
      inline(inside.join("\n"), node, depth);
    }
    out.push([first, node]);
  }
  return out;
}

function list(lines, i, depth) {
  const [, margin, marker] = BULLET.exec(lines[i]), numbered = marker.length > 1;
  const kind = text => text.at(-1);
  const node = el(numbered ? "ol" : "ul", numbered ? { start: parseInt(marker, 10) } : {});
  while (i < lines.length) {
    const item = BULLET.exec(lines[i]);
    if (!item || kind(item[2]) !== kind(marker) || item[1].length > margin.length + 1) break;
    if (isRule(lines[i])) break;
    const offset = item[1].length + item[2].length + (item[3].length >= 1 && item[3].length <= 4 ? item[3].length : 1);
    const inside = [lines[i].slice(offset)];
    for (i++; i < lines.length; i++) {
      const next = BULLET.exec(lines[i]), by = indent(lines[i]);
      if (!lines[i].trim()) inside.push("");
      else if (by >= offset || (next && by >= item[1].length + 2)) inside.push(lines[i].slice(Math.min(by, offset)));
      else if (inside.at(-1) !== "" && !next && !begins(lines, i)) inside.push(lines[i].trimStart());
      else break;
    }
    inside[0] = inside[0].replace(/^\[ \] /, "\u2610 ").replace(/^\[[xX]\] /, "\u2611 ");
    node.append(el("li", {}, ...blocks(inside, depth + 1).map(block => block[1])));
  }
  return [node, i];
}

function table(lines, i, depth) {
  const cells = line => {  // a bar after a backslash is text
    const parts = line.trim().replace(/^\|/, "").split(/(?<!\\)\|/);
    if (!parts.at(-1).trim()) parts.pop();
    return parts.map(part => part.trim().replaceAll("\\|", "|"));
  };
  const sides = cells(lines[i + 1]).map(cell => cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "");
  const row = (line, tag) => el("tr", {}, ...cells(line).slice(0, sides.length).map((text, k) => {
    const cell = el(tag, { className: sides[k] });
    inline(text, cell, depth);
    return cell;
  }));
  const head = row(lines[i], "th"), body = el("tbody");
  for (i += 2; i < lines.length && lines[i].includes("|"); i++) body.append(row(lines[i], "td"));
  return [el("div", { className: "wide", tabIndex: 0 }, el("table", {}, el("thead", {}, head), body)), i];
}

// A link only to where nothing runs in this page.
function link(address, ...children) {
  let url;
  try { url = new URL(address); } catch { return null; }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

const SPECIAL = /\\[!-\/:-@[-`{-~]|`+|!?\[|\*+|_+|~~|<(?:https?:\/\/|mailto:)[^\s<>]+>|https?:\/\/[^\s<>"]+|\n/g;

function inline(text, parent, depth) {
  if (depth >= 2 * MAX_DEPTH) { parent.append(text); return; }
  const absent = new Set();  // closing marks that do not come any more: keeps hostile text from taking long
  const find = new RegExp(SPECIAL);
  let done = 0, match;
  const put = (to, node) => {
    if (match.index > done) parent.append(text.slice(done, match.index));
    if (node) parent.append(node);
    find.lastIndex = done = to;
  };
  while ((match = find.exec(text))) {
    const at = match.index, mark = match[0], after = at + mark.length;
    if (mark === "\n") put(after, el("br"));
    else if (mark[0] === "\\") put(after, mark[1]);
    else if (mark[0] === "`") {
      const end = absent.has(mark) ? -1 : closing(text, after, "`", length => length === mark.length);
      if (end < 0) absent.add(mark);
      else put(end + mark.length, el("code", { textContent: text.slice(after, end).replace(/^ ([^]*\S[^]*) $/, "$1") }));
    } else if (mark.endsWith("[")) {
      const found = bracketed(text, after);
      if (!found) continue;
      const image = mark[0] === "!", inside = el("span");
      if (image) inside.append("image: " + (found.label || found.address));
      else inline(found.label, inside, depth + 1);
      const node = link(found.address, ...inside.childNodes);
      if (node) put(found.end, node);
    } else if (mark[0] === "<" || mark[0] === "h") {
      const address = mark[0] === "<" ? mark.slice(1, -1) : mark.replace(/[.,;:!?'*_)\]]+$/, "");
      const node = link(address, address);
      if (node) put(mark[0] === "<" ? after : at + address.length, node);
    } else {
      const long = Math.min(mark.length, 3), word = /[\p{L}\p{N}]/u, name = mark[0] + long;
      if (mark.length > 3 || !/\S/.test(text[after] || " ") || absent.has(name)) continue;
      if (mark[0] === "_" && at && word.test(text[at - 1])) continue;
      const end = closing(text, after, mark[0], (length, where) => /\S/.test(text[where - 1]) &&
        (long === 1 ? length !== 2 : length >= long) &&
        (mark[0] !== "_" || !word.test(text[where + length] || " ")));
      if (end < 0) { absent.add(name); continue; }
      const outer = el(mark[0] === "~" ? "del" : long === 1 ? "em" : "strong");
      inline(text.slice(after, end), long === 3 ? outer.appendChild(el("em")) : outer, depth + 1);
      put(end + long, outer);
    }
  }
  if (done < text.length) parent.append(text.slice(done));
}

// Where the next run of a mark begins that closes, or -1. Code in between is skipped for other marks.
function closing(text, from, mark, fits) {
  for (let i = from; i < text.length;) {
    if (text[i] === "\\" && mark !== "`") { i += 2; continue; }
    let end = i;
    while (text[end] === text[i] && (text[i] === mark || text[i] === "`")) end++;
    if (end === i) { i++; continue; }
    if (text[i] === mark && i > from && fits(end - i, i)) return i;
    if (text[i] === mark) { i = end; continue; }
    const code = text.indexOf(text.slice(i, end), end);
    i = code < 0 ? end : code + end - i;
  }
  return -1;
}

// "label](address "title")" from a position behind the bracket.
function bracketed(text, from) {
  let open = 1, i = from;
  for (const last = Math.min(text.length, from + 1000); i < last && open; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "[") open++;
    else if (text[i] === "]") open--;
  }
  if (open || text[i] !== "(") return null;
  const rest =
    /^\(\s{0,9}<?((?:[^\s()<>]|\([^\s()<>]{0,500}\)){1,4000})>?(?:\s{1,9}"[^"]{0,500}")?\s{0,9}\)/.exec(text.slice(i, i + 5000));
  return rest && { label: text.slice(from, i - 1), address: rest[1], end: i + rest[0].length };
}

const WORDS = new Set((
  "abstract and as assert async await auto bool break case catch char class const constexpr continue def default " +
  "delete del do double elif else end enum except export extends false final finally float fn for from func " +
  "function global goto if impl implements import in include int interface is lambda let local long match mod " +
  "module mut namespace new nil none None not null of operator or package pass private protected pub public raise " +
  "return select self short signed sizeof static str string struct super switch template then this throw trait " +
  "True False true try type typedef typename undefined union unsigned use using var virtual void where while with " +
  "yield SELECT FROM WHERE INSERT INTO UPDATE DELETE CREATE TABLE JOIN ON AND OR NOT NULL AS ORDER GROUP BY " +
  "VALUES SET LIMIT echo fi done esac").split(" "));
const HASH = new Set(
  "py python python3 sh bash zsh shell console yaml yml toml rb ruby r perl pl make makefile dockerfile cmake".split(" "));
const DASHES = new Set(["sql", "lua", "haskell", "hs", "ada"]);
const PLAIN = new Set(["", "text", "txt", "plain", "md", "markdown", "html", "xml", "output"]);
const STRINGS_AND_WORDS =
  "\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?|`[^`]*`?|\\b\\d[\\w.]*|[A-Za-z_]\\w*";
const COLOURED = [["#[^\\n]*", "\"\"\"[^]*?(?:\"\"\"|$)"], ["--[^\\n]*"], ["\\/\\/[^\\n]*", "\\/\\*[^]*?(?:\\*\\/|$)"]].map(
  comments => new RegExp([...comments, STRINGS_AND_WORDS].join("|"), "g"));

function codeBlock(text, language) {
  const code = el("code");
  if (PLAIN.has(language) || text.length > 60000) code.textContent = text;
  else {
    const kind = HASH.has(language) ? 0 : DASHES.has(language) ? 1 : 2;
    let done = 0;
    for (const match of text.matchAll(COLOURED[kind])) {
      const found = match[0], one = found[0];
      const name = ["#", "-", "/"][kind] === one ? "c" : "\"'`".includes(one) ? "s" :
        /\d/.test(one) ? "n" : WORDS.has(found) ? "w" : "";
      if (!name) continue;
      code.append(text.slice(done, match.index), el("span", { className: name, textContent: found }));
      done = match.index + found.length;
    }
    code.append(text.slice(done));
  }
  return el("div", { className: "code" },
    el("div", {}, el("span", { className: "soft", textContent: language || "text" }),
      button("Copy", event => copy(text, event.target), { className: "quiet" })),
    el("pre", { tabIndex: 0 }, code));
}

// Renders a text that grows: only from its last block on, as those before do not change any more.
class Growing {
  constructor(node) { this.node = node; this.text = ""; this.from = this.kept = 0; }
  set(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text)) this.from = this.kept = 0;
    this.text = text;
    const lines = text.slice(this.from).split("\n"), found = blocks(lines, 0);
    while (this.node.childNodes.length > this.kept) this.node.lastChild.remove();
    this.node.append(...found.map(block => block[1]));
    // The last line can still become something else, and with it what it ends.
    const whole = found.filter(block => block[0] < lines.length - 1).length - 1;
    if (whole < 1) return;
    for (let i = 0; i < found[whole][0]; i++) this.from += lines[i].length + 1;
    this.kept += whole;
  }
}
