// The report as one page of HTML: no script, nothing from elsewhere.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "moerge/base/html_text.h"
#include "moerge/moe/routing_report.h"

namespace moerge {
namespace {

constexpr std::string_view kBeginning = "<!doctype html>\n<!-- moerge route -->\n";

// Okabe and Ito's colours, told apart by colour-blind readers; grey for their black, which is invisible on a
// dark page. https://jfly.uni-koeln.de/color/
constexpr std::array kColours = {"#e69f00", "#56b4e9", "#009e73", "#f0e442",
                                 "#0072b2", "#d55e00", "#cc79a7", "#999999"};

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --page: #fff; --text: #1c1e21; --soft: #5d646b; --line: #d9dde1; --box: #f5f6f7;
  --heat: #00588c; --on-heat: #fff; --bad: #c44800; --good: #007a59; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --text: #e4e6e8; --soft: #a0a7ae; --line: #363b41;
  --box: #1f2327; --heat: #6cc1f2; --on-heat: #0b1116; --bad: #ff9a57; --good: #3fcfa4; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 68rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .3rem 0 .6rem; }
.soft { color: var(--soft); }
.numbers { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 0; padding: 0; list-style: none; }
.numbers li { background: var(--box); border-radius: .5rem; padding: .5rem .9rem; }
.numbers b { display: block; font-size: 1.25rem; }
.findings { margin: 0; padding: 0; list-style: none; }
.findings li { border-left: 4px solid var(--bad); background: var(--box); border-radius: 0 .4rem .4rem 0;
  padding: .5rem .9rem; margin: .5rem 0; overflow-wrap: anywhere; }
.findings li.fine { border-color: var(--good); }
.findings li.few_tokens, .findings li.no_text, .findings li.all_experts, .findings li.one_expert { border-color: var(--soft); }
.wide { overflow-x: auto; }
svg { display: block; }
svg text { fill: var(--soft); font-size: 11px; }
svg .value { fill: var(--text); font-size: 12px; pointer-events: none; }
svg .on { fill: var(--on-heat); }
@media (prefers-color-scheme: dark) { svg .mid { fill: var(--on-heat); } }
svg .heat { fill: var(--heat); }
svg .cell { stroke: var(--line); stroke-width: .5; }
svg .cell:hover { stroke: var(--text); stroke-width: 1.5; }
svg .dead { stroke: var(--bad); stroke-width: 1; fill: none; pointer-events: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
thead th:first-child { text-align: left; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
th[scope=row], td.name { text-align: left; color: var(--text); font-weight: 400; overflow-wrap: anywhere; min-width: 9rem; }
td.heat { position: relative; isolation: isolate; min-width: 4.2rem; }
td.heat::before { content: ""; position: absolute; inset: 1px; background: var(--heat); opacity: var(--level); z-index: -1; border-radius: 3px; }
td.on { color: var(--on-heat); }
@media (prefers-color-scheme: dark) { td.mid { color: var(--on-heat); } }
td.right { font-weight: 700; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em; background: var(--c); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; }
.tokens { background: var(--box); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.75 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; max-height: 32rem; overflow-y: auto; }
.tokens span { unicode-bidi: isolate; position: relative; isolation: isolate; border-bottom: 2px solid var(--c); }
.tokens span::before { content: ""; position: absolute; inset: 0; background: var(--c); opacity: .28; z-index: -1; }
.tokens span:hover { outline: 1.5px solid var(--text); }
.tokens i { font-style: normal; color: var(--soft); }
)css";

// -------- colours

std::string colour(const RoutingReport& report, int64_t expert) {
  if (report.experts() <= std::ssize(kColours)) return kColours[static_cast<size_t>(expert)];
  // Steps of the golden angle keep neighbours apart; lightness tells apart what hue alone would not.
  const double hue = std::fmod(static_cast<double>(expert) * 137.507764, 360.0);
  return fmt::format("hsl({:.1f} 70% {}%)", hue, 40 + 12 * (expert % 3));
}

std::string swatch(const RoutingReport& report, int64_t expert) {
  return fmt::format("<span class=\"swatch\" style=\"--c:{}\"></span>", colour(report, expert));
}

// Text on a cell of the heat map: on a dark page a middling cell is bright enough for dark text.
std::string_view text_class(double level) { return level > 0.72 ? " on" : level > 0.5 ? " mid" : ""; }

// -------- parts of the page

std::string head(const RoutingReport& report) {
  return fmt::format(
      "{}<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>Routing of {}</title>\n<style>{}</style>\n"
      "</head>\n<body>\n",
      kBeginning, html_text(report.model), kStyle);
}

std::string summary(const RoutingReport& report) {
  std::string out = fmt::format("<header>\n<h1>Where {} sends its tokens</h1>\n", html_text(report.model));
  if (!report.note.empty()) out += fmt::format("<p class=\"soft\">{}</p>\n", html_text(report.note));
  const auto number = [&](std::string_view value, std::string_view name) {
    out += fmt::format("<li><b>{}</b>{}</li>\n", value, name);
  };
  out += "<ul class=\"numbers\">\n";
  number(fmt::format("{}", report.experts()), report.experts() == 1 ? "expert" : "experts");
  number(fmt::format("{}", report.routing.experts_per_token), "for each token");
  number(fmt::format("{}", report.layers()), report.layers() == 1 ? "layer" : "layers");
  number(fmt::format("{}", report.tokens()), "tokens counted");
  if (const double right = report.stats.right_share(); right >= 0)
    number(percent(right),
           fmt::format("right (by chance {})", percent(1.0 / static_cast<double>(report.experts()))));
  return out + "</ul>\n</header>\n";
}

std::string diagnosis(const RoutingReport& report) {
  std::string out = "<section>\n<h2>Diagnosis</h2>\n<ul class=\"findings\">\n";
  for (const Finding& finding : diagnose(report))
    out += fmt::format("<li class=\"{}\">{}</li>\n", finding.kind, html_text(finding.text));
  return out + "</ul>\n</section>\n";
}

// Layers downwards, experts to the right.
class HeatMap {
 public:
  explicit HeatMap(const RoutingReport& report)
      : report_(report),
        full_(full_share(report)),
        width_(std::clamp<int64_t>(930 / report.experts(), 13, 112)),
        height_(report.layers() <= 16   ? 26
                : report.layers() <= 40 ? 19
                                        : 13),
        top_(has_names() ? 32 : 20) {}

  std::string html() const {
    const int64_t w = kLeft + width_ * report_.experts() + 4, h = top_ + height_ * report_.layers() + 4;
    std::string out = fmt::format(
        "<section>\n<h2>Layers and experts</h2>\n<p class=\"soft\">Share of the chosen places in a layer; an "
        "even share is {}. Framed: under a tenth of that.</p>\n<div class=\"wide\">\n<svg role=\"img\" "
        "aria-labelledby=\"heat-title heat-desc\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {} {}\">\n"
        "<title id=\"heat-title\">Share of tokens by layer and expert</title>\n<desc id=\"heat-desc\">{} "
        "layers "
        "downwards, {} experts to the right; the darker a cell, the more of the layer's tokens go to the "
        "expert.</desc>\n",
        percent(1.0 / static_cast<double>(report_.experts())), w, h, w, h, report_.layers(),
        report_.experts());
    out += axes();
    for (int64_t layer = 0; layer < report_.layers(); layer++)
      for (int64_t expert = 0; expert < report_.experts(); expert++) out += cell(layer, expert);
    return out + "</svg>\n</div>\n" + legend() + "</section>\n";
  }

 private:
  static constexpr int64_t kLeft = 62;

  bool has_names() const {
    return width_ >= 60 &&
           std::ranges::any_of(report_.names, [](const std::string& name) { return !name.empty(); });
  }

  std::string axes() const {
    std::string out;
    const int64_t every = width_ >= 22 ? 1 : width_ >= 16 ? 2 : 4, rows = height_ >= 19 ? 1 : 4;
    for (int64_t e = 0; e < report_.experts(); e += every) {
      const int64_t x = kLeft + width_ * e + width_ / 2;
      out += fmt::format("<text x=\"{}\" y=\"12\" text-anchor=\"middle\">{}</text>", x, e);
      if (!has_names()) continue;
      const std::string& name = report_.names[static_cast<size_t>(e)];
      out += fmt::format("<text x=\"{}\" y=\"26\" text-anchor=\"middle\">{}</text>", x,
                         html_text(shortened(name, static_cast<size_t>(width_ / 7))));
    }
    for (int64_t layer = 0; layer < report_.layers(); layer += rows)
      out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">layer {}</text>", kLeft - 6,
                         top_ + height_ * layer + height_ / 2 + 4, layer);
    return out + "\n";
  }

  static std::string shortened(const std::string& name, size_t most) {
    if (name.size() <= most) return name;
    size_t end = most - 1;
    while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xc0) == 0x80) end--;
    return name.substr(0, end) + "…";
  }

  std::string cell(int64_t layer, int64_t expert) const {
    const double share = report_.share(layer, expert), level = std::min(1.0, share / full_);
    const int64_t x = kLeft + width_ * expert, y = top_ + height_ * layer;
    std::string out = fmt::format(
        "<rect class=\"heat cell\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"2\" "
        "fill-opacity=\"{:.3f}\"><title>layer {}, {}: {} of the places, first choice of {}, mean probability "
        "{}</title></rect>",
        x, y, width_ - 1, height_ - 1, level, layer, html_text(report_.describe(expert)), percent(share),
        percent(report_.first_share(layer, expert)), percent(report_.probability(layer, expert)));
    if (share * static_cast<double>(report_.experts()) < 0.1)
      out += fmt::format("<rect class=\"dead\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"2\"/>",
                         x + 1, y + 1, width_ - 3, height_ - 3);
    if (width_ >= 30 && height_ >= 19)
      out += fmt::format("<text class=\"value{}\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{:.0f}</text>",
                         text_class(level), x + (width_ - 1) / 2, y + height_ / 2 + 4, 100 * share);
    return out + "\n";
  }

  std::string legend() const {
    constexpr int64_t kSteps = 9, kStep = 22;
    std::string out = fmt::format(
        "<svg role=\"img\" aria-label=\"From no token to {} of the places\" width=\"{}\" height=\"18\">"
        "<text x=\"0\" y=\"13\">0</text>",
        percent(full_), kSteps * kStep + 140);
    for (int64_t i = 0; i < kSteps; i++)
      out += fmt::format(
          "<rect class=\"heat cell\" x=\"{}\" y=\"2\" width=\"{}\" height=\"14\" fill-opacity=\"{:.3f}\"/>",
          14 + kStep * i, kStep - 1, static_cast<double>(i) / (kSteps - 1));
    return out + fmt::format("<text x=\"{}\" y=\"13\">{} and more</text></svg>\n", 20 + kSteps * kStep,
                             percent(full_));
  }

  const RoutingReport& report_;
  const double full_;
  const int64_t width_, height_, top_;
};

std::string expert_rows(const RoutingReport& report) {
  const bool labels = report.has_labels();
  std::string out =
      "<section>\n<h2>Experts</h2>\n<p class=\"soft\">Means over all layers.</p>\n<div "
      "class=\"wide\">\n<table>\n<thead><tr>"
      "<th scope=\"col\">expert</th><th scope=\"col\">share</th><th scope=\"col\">first choice</th>"
      "<th scope=\"col\">mean probability</th>";
  if (labels) out += "<th scope=\"col\">right</th><th scope=\"col\">tokens meant</th>";
  out += "</tr></thead>\n<tbody>\n";
  for (int64_t e = 0; e < report.experts(); e++) {
    out += fmt::format("<tr><th scope=\"row\">{}{}</th><td>{}</td><td>{}</td><td>{}</td>", swatch(report, e),
                       html_text(report.short_name(e)), percent(report.share(e)),
                       percent(report.first_share(e)), percent(report.probability(e)));
    const double right = report.stats.right_share(e);
    if (labels)
      out += fmt::format("<td>{}</td><td>{}</td>", right < 0 ? "–" : percent(right), report.tokens_meant(e));
    out += "</tr>\n";
  }
  return out + "</tbody>\n</table>\n</div>\n</section>\n";
}

std::string confusion(const RoutingReport& report) {
  if (!report.has_labels()) return "";
  std::string out =
      "<section>\n<h2>Meant and chosen</h2>\n<p class=\"soft\">Each row: the texts meant for one expert, and "
      "which expert their tokens choose first (mean over layers).</p>\n<div class=\"wide\">\n<table>\n"
      "<thead><tr><th scope=\"col\">meant for</th>";
  for (int64_t e = 0; e < report.experts(); e++)
    out += fmt::format("<th scope=\"col\">{}</th>",
                       html_text(report.experts() <= 12 ? report.short_name(e) : fmt::format("{}", e)));
  out += "</tr></thead>\n<tbody>\n";
  for (int64_t meant = 0; meant < report.experts(); meant++) {
    if (report.tokens_meant(meant) == 0) continue;
    out += fmt::format("<tr><th scope=\"row\">{}</th>", html_text(report.short_name(meant)));
    for (int64_t e = 0; e < report.experts(); e++) {
      const double share = report.confusion(meant, e);
      out += fmt::format("<td class=\"heat{}{}\" style=\"--level:{:.3f}\">{}</td>", text_class(share),
                         e == meant ? " right" : "", share, percent(share));
    }
    out += "</tr>\n";
  }
  return out + "</tbody>\n</table>\n</div>\n</section>\n";
}

// -------- texts and their tokens

std::string text_rows(const RoutingReport& report) {
  constexpr size_t kMost = 200;
  std::string out =
      "<section>\n<h2>Texts</h2>\n<div class=\"wide\">\n<table>\n<thead><tr><th scope=\"col\">text</th><th "
      "scope=\"col\">meant "
      "for</th><th scope=\"col\">tokens</th><th scope=\"col\">perplexity</th></tr></thead>\n<tbody>\n";
  for (size_t i = 0; i < std::min(kMost, report.texts.size()); i++) {
    const RoutedText& text = report.texts[i];
    out += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                       html_text(text.name), text.meant < 0 ? "–" : html_text(report.short_name(text.meant)),
                       text.tokens, text.perplexity() < 0 ? "–" : fmt::format("{:.2f}", text.perplexity()));
  }
  out += "</tbody>\n</table>\n</div>\n";
  if (report.texts.size() > kMost) out += fmt::format("<p>and {} more</p>\n", report.texts.size() - kMost);
  return out + "</section>\n";
}

// One line a layer, or where that is long the first choice alone, neighbours together.
std::string hover(const RoutingReport& report, const RoutedToken& token,
                  const std::vector<std::vector<Choice>>& chosen) {
  std::string out = fmt::format("token {} \"{}\"", token.id, token.piece);
  if (report.layers() * report.routing.experts_per_token <= 64) {
    for (size_t layer = 0; layer < chosen.size(); layer++) {
      out += fmt::format("\nlayer {}:", layer);
      for (const Choice& choice : chosen[layer])
        out += fmt::format(" {} {:.0f} %", report.short_name(choice.expert), 100 * choice.weight);
    }
    return out;
  }
  out += "\nfirst choices";
  for (size_t i = 0; i < chosen.size();) {
    const auto first = [&](size_t layer) {
      return chosen[layer].empty() ? -1 : chosen[layer].front().expert;
    };
    size_t end = i;
    while (end + 1 < chosen.size() && first(end + 1) == first(i)) end++;
    out += end == i ? fmt::format("\nlayer {}: {}", i, first(i))
                    : fmt::format("\nlayers {}-{}: {}", i, end, first(i));
    i = end + 1;
  }
  return out;
}

// The expert with the largest weights, all layers together.
int64_t strongest(const RoutingReport& report, const std::vector<std::vector<Choice>>& chosen) {
  std::vector<double> sums(static_cast<size_t>(report.experts()));
  for (const std::vector<Choice>& layer : chosen)
    for (const Choice& choice : layer) sums[static_cast<size_t>(choice.expert)] += choice.weight;
  return std::ranges::max_element(sums) - sums.begin();
}

std::string visible(const RoutedToken& token) {
  if (token.piece.empty()) return "<i>·</i>";
  std::string out;
  for (const char c : html_text(token.piece)) out += c == '\n' ? "<i>↵</i>\n" : std::string(1, c);
  return out;
}

std::string tokens(const RoutingReport& report, size_t most) {
  std::string parts;
  size_t shown = 0;
  std::vector<bool> used(static_cast<size_t>(report.experts()));
  for (const RoutedText& text : report.texts) {
    if (shown == most) break;
    if (text.kept.empty()) continue;
    parts += fmt::format("<h3>{}</h3>\n<div class=\"tokens\" tabindex=\"0\">", html_text(text.name));
    for (const RoutedToken& token : text.kept) {
      if (shown == most) break;
      shown++;
      const std::vector<std::vector<Choice>> chosen = choices(report, token);
      const int64_t expert = strongest(report, chosen);
      used[static_cast<size_t>(expert)] = true;
      parts += fmt::format("<span class=\"e{}\" title=\"{}\">{}</span>", expert,
                           html_text(hover(report, token, chosen)), visible(token));
    }
    parts += "</div>\n";
  }
  if (shown == 0) return "";
  std::string style = "<style>", legend = "<div class=\"legend\">";
  for (int64_t e = 0; e < report.experts(); e++) {
    if (!used[static_cast<size_t>(e)]) continue;
    style += fmt::format(".e{}{{--c:{}}}", e, colour(report, e));
    legend += fmt::format("<span>{}{}</span>", swatch(report, e), html_text(report.short_name(e)));
  }
  return fmt::format(
      "<section>\n<h2>Tokens</h2>\n<p class=\"soft\">The texts from their beginning, {} tokens; the colour "
      "is the expert with the "
      "largest weights, all layers together. Point at a token for its layers.</p>\n{}</style>\n{}</div>\n{}"
      "</section>\n",
      shown, style, legend, parts);
}

}  // namespace

std::string routing_page(const RoutingReport& report) {
  constexpr size_t kTokens = 2000;
  return head(report) + "<main>\n" + summary(report) + diagnosis(report) + HeatMap(report).html() +
         expert_rows(report) + confusion(report) + text_rows(report) + tokens(report, kTokens) +
         "</main>\n</body>\n</html>\n";
}

bool is_routing_page(std::string_view beginning) { return beginning.starts_with(kBeginning); }

}  // namespace moerge
