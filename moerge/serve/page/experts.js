"use strict";
// Which expert has each token: its colour, the legend, and layer by layer when it is looked at.

const expertName = expert => {
  const name = info && info.expert_names && info.expert_names[expert];
  return name ? `${expert} ${name}` : `expert ${expert}`;
};
const colourOf = expert => "x" + expert % 8;  // they come again; the numbers tell those apart

// The weight of each expert over the layers: a Map.
function weightsOf(routing) {
  const sums = new Map();
  routing.experts.forEach((chosen, layer) => chosen.forEach((expert, k) =>
    sums.set(expert, (sums.get(expert) || 0) + routing.weights[layer][k])));
  return sums;
}

// Unless the user has chosen, what the server was started with.
const coloursWanted = () => !!(info && info.experts && (settings.colours ?? info.show_routing));

function setUpExperts() {
  const mixture = info.experts > 0;
  $("colours-row").hidden = !mixture;
  $("talk").classList.toggle("many", info.experts > 8);
  $("legend").querySelector("ul").replaceChildren(...Array.from({ length: info.experts }, (_, expert) =>
    el("li", { className: colourOf(expert), title: expertName(expert) },
      el("span", {}, el("i", { className: "swatch" }), expertName(expert)), el("b", { textContent: "" }),
      el("div", { className: "track" }, el("i")))));
  const change = () => {
    const on = coloursWanted() && settings.view !== "formatted";
    $("colours").checked = coloursWanted();
    $("see-experts").setAttribute("aria-pressed", on);
    $("see-formatted").setAttribute("aria-pressed", !on);
    $("views").hidden = !mixture;
    hideDetail();
    talk.forEach((message, i) => draw(message, shown[i], true));
    legend();
  };
  const choose = choice => { Object.assign(settings, choice); keepSettings(); change(); };
  $("colours").onchange = () => choose({ colours: $("colours").checked });
  $("see-experts").onclick = () => choose({ colours: true, view: "experts" });
  $("see-formatted").onclick = () => choose({ view: "formatted" });
  change();
}

// The shares of the latest answer with a routing. What has been added up stays with its elements.
function legend() {
  $("legend").hidden = !coloursWanted();
  if (!coloursWanted()) return;
  const view = shown.findLast(one => one.message.routing);
  const sums = view ? (view.sums ||= { by: new Map(), tokens: 0, next: 0 }) : { by: new Map(), tokens: 0 };
  if (view) for (; sums.next < view.message.routing.length; sums.next++) {
    const routing = view.message.routing[sums.next];
    if (!routing) continue;
    for (const [expert, weight] of weightsOf(routing)) sums.by.set(expert, (sums.by.get(expert) || 0) + weight);
    sums.tokens++;
  }
  const all = [...sums.by.values()].reduce((a, b) => a + b, 0);
  $("legend-note").textContent = sums.tokens ? `Shares of the last answer, ${sums.tokens} tokens` :
    "Their shares of the next answer";
  [...$("legend").querySelectorAll("li")].forEach((row, expert) => {
    const share = all ? (sums.by.get(expert) || 0) / all : 0;
    row.querySelector("b").textContent = all ? `${(100 * share).toFixed(0)} %` : "";
    row.querySelector(".track i").style.width = `${100 * share}%`;
  });
}

// New pieces as spans, and colours for those whose routing has come: it comes after the text.
function drawTokens(message, view) {
  if (!view.tokens) {
    view.tokens = view.body.appendChild(el("div", { className: "tokens", role: "group",
      ariaLabel: "Tokens; the arrow keys go from one to the next" }));
  }
  const boxes = { true: [], false: [] };
  for (; view.drawn < message.pieces.length; view.drawn++) {
    const [text, , thought] = message.pieces[view.drawn];
    const style = /^\n+$/.test(text) ? "t newline" : "t";
    const span = el("span", { className: style, textContent: text, tabIndex: view.drawn ? -1 : 0 });
    view.spans.push(span);
    boxes[!!thought].push(span);
  }
  if (boxes.true.length && view.thought) view.thought.append(...boxes.true);
  view.tokens.append(...boxes.false);
  for (; view.coloured < view.spans.length; view.coloured++) {
    const routing = message.routing[message.pieces[view.coloured][1] - 1];
    if (!routing) {
      // Left out for good if a later one is known.
      if (message.routing.length < message.pieces[view.coloured][1]) break;
      continue;
    }
    const sums = [...weightsOf(routing)];
    if (!sums.length) continue;
    const top = sums.reduce((best, one) => one[1] > best[1] ? one : best)[0], span = view.spans[view.coloured];
    span.classList.add(colourOf(top));
    span.dataset.n = top;
  }
}

// ---------------------------------------------------------------------------------------------------- a token's layers

let detailOf = null, leaving = 0;

function showDetail(span) {
  clearTimeout(leaving);
  if (span === detailOf) return;
  hideDetail();
  const view = shown.find(one => one.article.contains(span)), at = view ? view.spans.indexOf(span) : -1;
  if (at < 0) return;
  const { pieces, routing } = view.message, box = $("detail");
  box.replaceChildren();
  for (let token = at ? pieces[at - 1][1] : 0; token < pieces[at][1]; token++) {
    const last = token === pieces[at][1] - 1;
    box.append(el("b", { textContent: `Token ${token + 1}` + (last ? `: ${JSON.stringify(pieces[at][0])}` : "") }));
    const known = routing[token];
    if (!known) {
      box.append(el("div", { className: "soft", textContent: view === shown.at(-1) && running ? "on its way" :
        "not routed: the answer ended with it" }));
      continue;
    }
    const body = el("tbody");
    known.experts.forEach((chosen, layer) => body.append(el("tr", { className: "layer" },
      el("th", { scope: "row", textContent: `layer ${layer}` }),
      ...chosen.map((expert, k) => {
        const bar = el("i", { className: colourOf(expert) });
        bar.style.width = `${3 * known.weights[layer][k]}rem`;
        bar.style.marginRight = `${3.3 - 3 * known.weights[layer][k]}rem`;  // the names one below the other
        return el("td", {}, bar, `${expertName(expert)} ${(100 * known.weights[layer][k]).toFixed(0)} %`);
      }))));
    box.append(el("table", {}, body));
  }
  box.hidden = false;
  box.scrollTop = 0;
  const rect = span.getClientRects()[0] || span.getBoundingClientRect(), size = box.getBoundingClientRect();
  const below = rect.bottom + 6 + size.height < innerHeight;
  box.style.left = `${Math.max(8, Math.min(rect.left, innerWidth - size.width - 8))}px`;
  box.style.top = `${below ? rect.bottom + 6 : Math.max(8, rect.top - size.height - 6)}px`;
  span.setAttribute("aria-describedby", "detail");
  detailOf = span;
}

function hideDetail() {
  clearTimeout(leaving);
  $("detail").hidden = true;
  if (detailOf) detailOf.removeAttribute("aria-describedby");
  detailOf = null;
}

// One listener for all tokens. A pause on the way to the view, which can be longer than it shows.
function followTokens() {
  const token = event => event.target.closest && event.target.closest(".t");
  const leave = () => { clearTimeout(leaving); leaving = setTimeout(() => {
    if (detailOf && detailOf !== document.activeElement) hideDetail();
  }, 200); };
  $("talk").addEventListener("mouseover", event => { const span = token(event); if (span) showDetail(span); else leave(); });
  $("talk").addEventListener("mouseleave", leave);
  $("detail").addEventListener("mouseenter", () => clearTimeout(leaving));
  $("detail").addEventListener("mouseleave", leave);
  $("talk").addEventListener("focusin", event => { const span = token(event); if (span) showDetail(span); });
  $("talk").addEventListener("focusout", event => { if (token(event)) hideDetail(); });
  $("talk").addEventListener("scroll", () => { if (detailOf && detailOf !== document.activeElement) hideDetail(); });
  $("talk").addEventListener("keydown", event => {
    const span = token(event), step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!span || !(step || ["Home", "End"].includes(event.key))) return;
    const all = [...span.parentNode.querySelectorAll(".t")];
    const next = step ? all[all.indexOf(span) + step] : event.key === "Home" ? all[0] : all.at(-1);
    event.preventDefault();
    if (!next) return;
    span.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
