// The report for a terminal.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "moerge/base/progress.h"
#include "moerge/moe/routing_report.h"

namespace moerge {
namespace {

constexpr int64_t kWidth = 100, kMaxRows = 32;
constexpr int64_t kBarExperts = 8;      // up to so many have bars beside their number
constexpr int64_t kNumberExperts = 20;  // up to so many have a number; beyond, one character
constexpr int64_t kExpertsInLine = 80;
constexpr size_t kMaxTexts = 16, kMaxMatrix = 10, kListed = 24;
constexpr std::array kEighths = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
constexpr std::array kHeights = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr std::string_view kRed = "\033[31m", kYellow = "\033[33m", kBold = "\033[1m", kPlain = "\033[0m";

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

int64_t columns(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return !continues(c); });
}

// Escaped and in one line, at most so many characters, padded to that on the right.
std::string fit(std::string_view text, int64_t width) {
  std::string flat = printable(text);
  std::ranges::replace_if(
      flat, [](char c) { return c == '\n' || c == '\t'; }, ' ');
  if (columns(flat) > width) {
    size_t end = 0;
    for (int64_t left = width - 1; end < flat.size(); end++)
      if (!continues(flat[end]) && left-- == 0) break;
    flat = flat.substr(0, end) + "…";
  }
  return flat + std::string(static_cast<size_t>(std::max<int64_t>(0, width - columns(flat))), ' ');
}

// The end of a path says more than its beginning.
std::string fit_path(const std::string& name, int64_t width) {
  if (name.starts_with('"') || columns(name) <= width) return fit(name, width);
  size_t begin = name.size();
  for (int64_t left = width - 1; begin > 0 && left > 0; left -= continues(name[begin]) ? 0 : 1) begin--;
  return fit("…" + name.substr(begin), width);
}

std::string trim_end(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::string repeat(std::string_view text, int64_t count) {
  std::string out;
  for (int64_t i = 0; i < count; i++) out += text;
  return out;
}

// Lines of at most `width` characters, each after `indent`.
std::string wrapped(const std::string& text, int64_t width, std::string_view indent) {
  std::string out, line;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!line.empty() && std::ssize(indent) + columns(line) + 1 + columns(word) > width) {
      out += fmt::format("{}{}\n", indent, line);
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
    at = end + 1;
  }
  return out + fmt::format("{}{}\n", indent, line);
}

// -------- layers and experts

// A row of the table: one layer, or the mean of several neighbours.
struct Row {
  int64_t first, last;
  std::string label() const {
    return first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
  }
  template <typename Of>
  double mean(const Of& of_layer) const {
    double sum = 0;
    for (int64_t layer = first; layer <= last; layer++) sum += of_layer(layer);
    return sum / static_cast<double>(last - first + 1);
  }
};

std::vector<Row> make_rows(int64_t layers) {
  const int64_t step = (layers + kMaxRows - 1) / kMaxRows;
  std::vector<Row> rows;
  for (int64_t layer = 0; layer < layers; layer += step)
    rows.push_back({layer, std::min(layers, layer + step) - 1});
  return rows;
}

class Table {
 public:
  Table(const RoutingReport& report, const TextStyle& style)
      : report_(report),
        style_(style),
        full_(full_share(report)),
        even_(1.0 / static_cast<double>(report.experts())) {
    const int64_t experts = report.experts(), left = kWidth - 7 - 10 - (report.has_labels() ? 8 : 0);
    cell_ = experts <= kBarExperts      ? std::clamp<int64_t>(left / experts, 9, 20)
            : experts <= kNumberExperts ? 4
                                        : 1;
  }

  std::string text() const {
    std::string out;
    for (int64_t first = 0; first < report_.experts(); first += kExpertsInLine)
      out += block(first, std::min(report_.experts(), first + kExpertsInLine));
    return out + legend();
  }

 private:
  std::string block(int64_t first, int64_t end) const {
    const bool last = end == report_.experts();
    std::string out = header(first, end, last);
    for (const Row& row : make_rows(report_.layers())) {
      std::string line = fmt::format("{:<7}", row.label());
      for (int64_t e = first; e < end; e++)
        line += cell(row.mean([&](int64_t layer) { return report_.share(layer, e); }));
      if (last) {
        line += fmt::format("  {:>7}", percent(row.mean([&](int64_t l) { return report_.entropy(l); })));
        if (report_.has_labels())
          line += fmt::format(
              "  {:>6}", percent(std::max(0.0, row.mean([&](int64_t l) { return report_.right_share(l); }))));
      }
      out += trim_end(line) + "\n";
    }
    return out;
  }

  std::string header(int64_t first, int64_t end, bool last) const {
    std::string line = "layer  ";
    if (cell_ > 4)
      for (int64_t e = first; e < end; e++) line += fit(report_.short_name(e), cell_ - 1) + " ";
    else if (cell_ > 1)
      for (int64_t e = first; e < end; e++) line += fmt::format("{:>3} ", e);
    else
      for (int64_t e = first; e < end; e += 10)
        line += fit(fmt::format("{}", e), std::min<int64_t>(10, end - e));
    if (last) line += report_.has_labels() ? "  entropy   right" : "  entropy";
    return line + "\n";
  }

  std::string cell(double share) const {
    std::string out;
    if (cell_ > 4) {
      const int64_t bar = cell_ - 5;
      const std::string number = fmt::format("{:>3.0f}", 100 * share);
      out = (style_.bars ? number + " " + horizontal(share, bar) : number);
      const int64_t used = columns(out);
      out = coloured(share, out) + std::string(static_cast<size_t>(std::max<int64_t>(0, cell_ - used)), ' ');
    } else if (cell_ > 1) {
      out = coloured(share, fmt::format("{:>3.0f}{}", 100 * share, style_.bars ? vertical(share) : " "));
    } else {
      out = coloured(share, style_.bars ? vertical(share) : digit(share));
    }
    return out;
  }

  std::string coloured(double share, std::string text) const {
    if (!style_.colours) return text;
    const std::string_view colour = share < 0.1 * even_ ? kRed : share > 2 * even_ ? kYellow : "";
    return colour.empty() ? text : fmt::format("{}{}{}", colour, text, kPlain);
  }

  std::string horizontal(double share, int64_t width) const {
    const auto eighths =
        static_cast<int64_t>(std::lround(std::min(1.0, share / full_) * 8 * static_cast<double>(width)));
    return repeat("█", eighths / 8) + kEighths[static_cast<size_t>(eighths % 8)];
  }

  std::string vertical(double share) const {
    if (share < 0.1 * even_) return "·";
    return kHeights[static_cast<size_t>(std::ceil(std::min(1.0, share / full_) * 8))];
  }

  // Even shares, rounded down.
  std::string digit(double share) const {
    return share < 0.1 * even_ ? "." : fmt::format("{}", static_cast<int>(std::min(9.0, share / even_)));
  }

  std::string legend() const {
    std::string out = fmt::format("an even share is {}", percent(even_));
    if (cell_ == 1 && !style_.bars)
      out += "; each digit counts even shares, 0 is less than one, \".\" under a tenth";
    if (style_.bars) out += fmt::format("; a full block is {}", percent(full_));
    if (cell_ <= 4 && style_.bars) out += ", \"·\" under a tenth of an even share";
    if (style_.colours) out += "; red: under a tenth of it, yellow: over twice";
    return wrapped(out + "; entropy: 100 % is undecided", kWidth, "");
  }

  const RoutingReport& report_;
  const TextStyle& style_;
  const double full_, even_;
  int64_t cell_;
};

// -------- experts, texts

std::string share_or_dash(double share) { return share < 0 ? "-" : percent(share); }

std::string expert_table(const RoutingReport& report) {
  std::vector<int64_t> order;
  for (int64_t e = 0; e < report.experts(); e++) order.push_back(e);
  std::string note;
  if (order.size() > kListed) {
    std::ranges::stable_sort(order, {}, [&](int64_t e) { return report.share(e); });
    order.erase(order.begin() + kListed / 2, order.end() - kListed / 2);
    note = fmt::format("the {} least and {} most used of {}\n", kListed / 2, kListed / 2, report.experts());
  }
  std::string out = fit("expert", 30) + "   share  first choice  probability" +
                    (report.has_labels() ? "   right  tokens meant\n" : "\n");
  for (const int64_t e : order) {
    out += fmt::format("{} {:>7} {:>13} {:>12}", fit(report.short_name(e), 30), percent(report.share(e)),
                       percent(report.first_share(e)), percent(report.probability(e)));
    if (report.has_labels())
      out += fmt::format(" {:>7} {:>13}", share_or_dash(report.stats.right_share(e)), report.tokens_meant(e));
    out += "\n";
  }
  return out + note;
}

std::string text_table(const RoutingReport& report) {
  std::string out = fit("text", 34) + " for   tokens  perplexity  mostly first\n";
  for (size_t i = 0; i < std::min(report.texts.size(), kMaxTexts); i++) {
    const RoutedText& text = report.texts[i];
    const auto most = std::ranges::max_element(text.first);
    const auto all = static_cast<double>(text.tokens * report.layers());
    out += trim_end(fmt::format("{} {:<4} {:>7} {:>11}  {}", fit_path(text.name, 34),
                                text.meant < 0 ? "-" : fmt::format("{}", text.meant), text.tokens,
                                text.perplexity() < 0 ? "-" : fmt::format("{:.2f}", text.perplexity()),
                                fit(fmt::format("{} ({})", report.short_name(most - text.first.begin()),
                                                percent(all == 0 ? 0 : static_cast<double>(*most) / all)),
                                    36))) +
           "\n";
  }
  if (report.texts.size() > kMaxTexts) out += fmt::format("and {} more\n", report.texts.size() - kMaxTexts);
  return out;
}

// -------- labels

std::string confusion_table(const RoutingReport& report) {
  std::vector<int64_t> rows;
  for (int64_t e = 0; e < report.experts(); e++)
    if (report.tokens_meant(e) > 0) rows.push_back(e);
  const bool matrix = report.experts() <= static_cast<int64_t>(kMaxMatrix);
  const int64_t cell = std::min<int64_t>(14, (kWidth - 22) / report.experts());
  std::string out = fit("text meant for", 22);
  if (matrix)
    for (int64_t e = 0; e < report.experts(); e++) out += " " + fit(report.short_name(e), cell - 1);
  else
    out += "right  most often first";
  out = trim_end(out) + "\n";
  for (const int64_t meant : rows) {
    std::string line = fit(report.short_name(meant), 22);
    if (matrix) {
      for (int64_t e = 0; e < report.experts(); e++)
        line += " " + fit(percent(report.confusion(meant, e)), cell - 1);
    } else {
      std::vector<int64_t> order;
      for (int64_t e = 0; e < report.experts(); e++) order.push_back(e);
      std::ranges::stable_sort(order, std::greater(), [&](int64_t e) { return report.confusion(meant, e); });
      line += fmt::format("{:>5} ", percent(report.confusion(meant, meant)));
      for (size_t i = 0; i < 3; i++)
        line += fmt::format(" {} ({})", fit(report.short_name(order[i]), 12),
                            percent(report.confusion(meant, order[i])));
    }
    out += trim_end(line) + "\n";
  }
  return out + fmt::format("right: {} (by chance {})\n", share_or_dash(report.stats.right_share()),
                           percent(1.0 / static_cast<double>(report.experts())));
}

}  // namespace

std::string routing_text(const RoutingReport& report, const TextStyle& style) {
  const auto heading = [&](std::string_view text) {
    return style.colours ? fmt::format("\n{}{}{}\n", kBold, text, kPlain) : fmt::format("\n{}\n", text);
  };
  std::string out = fmt::format(
      "{}: {} expert{}, {} for each token, {} layer{}; {} token{} of {} text{}\n", printable(report.model),
      report.experts(), report.experts() == 1 ? "" : "s", report.routing.experts_per_token, report.layers(),
      report.layers() == 1 ? "" : "s", report.tokens(), report.tokens() == 1 ? "" : "s", report.texts.size(),
      report.texts.size() == 1 ? "" : "s");
  if (!report.note.empty()) out += printable(report.note) + "\n";
  out += heading("Where tokens go: share of the chosen places, in %") + Table(report, style).text();
  out += heading("Experts, mean over layers") + expert_table(report);
  out += heading("Texts") + text_table(report);
  if (report.has_labels())
    out += heading("Meant and first choice, share of the tokens") + confusion_table(report);
  out += heading("Diagnosis");
  for (const Finding& finding : diagnose(report))
    out += "- " + wrapped(printable(finding.text), kWidth, "  ").substr(2);
  return out;
}

}  // namespace moerge
