// moerge route MODEL_OR_CONFIG --text FILE: arguments, and the order in which things happen.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/base/parallel.h"
#include "moerge/base/partial_file.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/export_source.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/folder_flags.h"
#include "moerge/cli/route_texts.h"
#include "moerge/cli/source_flags.h"
#include "moerge/engine/decoder.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/moe/gate_job.h"
#include "moerge/moe/planned_model.h"
#include "moerge/moe/routing_report.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMinWindow = 8;
constexpr int64_t kPageTokens = 2000;
constexpr int64_t kPassBytes = 512 << 20;  // of states and logits
// Of --per-token: numbers in JSON, and what an entry of a layer takes besides. About 1 GB while it is made.
constexpr int64_t kMaxKept = int64_t{1} << 23, kLayerEntry = 12;

struct Arguments {
  std::string model, cache, html;
  std::vector<std::string> prompts, texts;
  int64_t max_tokens = 8192, window = 512;
  int threads = default_threads();
  bool json = false, per_token = false, overwrite = false, quiet = false;
  SourceOptions how;
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option(
         "MODEL_OR_CONFIG", a.model,
         "a mixture: folder, GGUF file or model in the Hugging Face cache; or an MoE YAML: what would be "
         "built of it, without building it")
      ->required();
  const std::string what = "What is read";
  app.add_option("--text", a.texts,
                 "file to read, again for each: UTF-8 as it is, or .jsonl with a \"text\" in each line. "
                 "LABEL=FILE: meant for this expert, by number or by its model's name in the YAML")
      ->allow_extra_args(false)
      ->group(what);
  app.add_option("--prompt", a.prompts, "a text itself, again for each; LABEL=TEXT likewise")
      ->allow_extra_args(false)
      ->group(what);
  app.add_option("--max-tokens", a.max_tokens, "read no more of each text (8192)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->group(what);
  app.add_option("--window", a.window, "cut texts into windows of so many tokens, which see each other (512)")
      ->check(CLI::Range(kMinWindow, int64_t{1} << 20))
      ->group(what);
  app.add_option("--transformers-cache", a.cache, "look for models here instead of the Hugging Face cache")
      ->group(what);
  add_build_flags(app, a.how, "Of a YAML, as in moerge moe");
  app.add_option("-j,--threads,--num-threads", a.threads, "threads (all cores)")
      ->check(CLI::Range(1, 1024))
      ->group(kWorkGroup);
  add_device_flags(app, a.how, "everything is");
  const std::string report = "What is reported";
  app.add_flag("--json", a.json, "print everything as JSON on stdout (docs/routing.md)")->group(report);
  app.add_flag("--per-token", a.per_token, "with --json: every token, its experts, weights and router logits")
      ->group(report);
  app.add_option("--html", a.html, "write a page with heat map and coloured tokens to this file")
      ->group(report);
  app.add_flag("--overwrite", a.overwrite, "replace such a page that is there")->group(report);
  app.add_flag("-q,--quiet", a.quiet, "no progress; warnings and errors only")->group(report);
}

// Before the work, not after it.
void check_page(const fs::path& page, bool overwrite) {
  const fs::path folder = fs::absolute(page).parent_path();
  if (!fs::is_directory(folder))
    fail(ErrorKind::usage, "cannot write {}: {} is not a folder", page.string(), folder.string());
  if (access(folder.c_str(), W_OK | X_OK) != 0) fail_errno("cannot write into", folder.string());
  if (!fs::exists(fs::symlink_status(page))) return;
  if (!fs::is_regular_file(page)) fail(ErrorKind::usage, "{} exists and is not a file", page.string());
  if (!overwrite)
    fail(ErrorKind::usage, "{} exists: choose another name, or replace it with --overwrite", page.string());
  const File file = File::open_read(page);
  std::string beginning(static_cast<size_t>(std::min<int64_t>(64, file.size())), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(beginning)));
  if (!is_routing_page(beginning))
    fail(ErrorKind::usage,
         "{} is no page of moerge route, so --overwrite does not replace it: choose another name",
         page.string());
}

void write_page(const fs::path& page, const std::string& html) {
  PartialFile file(page);
  file.file().write_at(0, std::as_bytes(std::span(html)));
  file.commit();
}

// -------- the mixture

// What runs: a model that is there, or the one that a YAML describes.
class RoutedModel {
 public:
  RoutedModel(const Arguments& a, Reporter& reporter) {
    if (is_yaml(a.model))
      plan(a, reporter);
    else
      open(a, reporter);
    if (!model_->is_mixture())
      fail(ErrorKind::usage,
           "{}: a dense model has no routers: moerge route takes a mixture of experts, or the YAML of one",
           a.model);
    const Model& tokens = moe_ ? *moe_->models.base : *model_;
    if (!has_tokenizer(tokens))
      fail(ErrorKind::input,
           "{}: there is no tokenizer.json or tokenizer.model (in GGUF: no vocabulary), and without "
           "one no text becomes tokens",
           tokens.path.string());
    tokenizer_ = std::make_unique<Tokenizer>(read_tokenizer(tokens));
  }

  const Model& model() const { return *model_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  /// The YAML it is made from, or was made from; null where that is not known.
  const MoeConfig* config() const { return config_ ? &*config_ : nullptr; }
  /// Data of its YAML, as the gate mode has read it: the sequences of each expert after its prompts'.
  bool has_data() const { return moe_ && moe_->data_tokens > 0; }
  void add_data(const TextCutter& cutter, RoutingReport& report, std::vector<TextWindow>& windows) const {
    for (size_t e = 0; e < config_->experts.size(); e++) {
      const std::vector<TokenSequence>& all = moe_->gate_input.experts[e].positive;
      const int64_t expert = kept() + static_cast<int64_t>(e);
      cutter.add_sequences({.name = "data of " + report.describe(expert), .meant = expert},
                           std::span(all).subspan(config_->experts[e].positive_prompts.size()), report.texts,
                           windows);
    }
  }
  /// Whether its routers come from prompts.
  bool has_prompts() const {
    const GateMode* mode = config_ ? find_gate_mode(config_->gate_mode) : nullptr;
    return config_ && (!mode || mode->needs != GateNeeds::nothing);
  }
  /// Experts before those of the YAML.
  int64_t kept() const { return model_->config.experts - std::ssize(config_->experts); }

  /// Makes the routers of a YAML exactly as a build does.
  void make_routers(const Arguments& a, Reporter& reporter) {
    if (!moe_) return;
    const GateJob job(*moe_, make_encoder(*moe_, a.how, a.threads), reporter);
    moe_->gates->get();
  }

 private:
  void plan(const Arguments& a, Reporter& reporter) {
    check_config_exists(a.model);
    ModelFetcher fetcher(a.how, reporter);
    moe_ = std::make_unique<MoePlan>(plan_yaml(a.model, a.how, Layout::per_expert, fetcher));
    for (const std::string& warning : moe_->warnings) reporter.warning(warning);
    config_ = moe_->config;
    planned_ = std::make_unique<PlannedModel>(*moe_);
    model_ = &planned_->model();
  }

  void open(const Arguments& a, Reporter& reporter) {
    opened_ = std::make_unique<Model>(a.model, fetch_model(a.model, a.how, reporter));
    model_ = opened_.get();
    const fs::path yaml = model_->path / "mergekit_moe_config.yml";
    if (!fs::is_regular_file(yaml)) return;
    try {  // of use, but not needed
      MoeConfig config = parse_moe_config(read_file(yaml, kMaxMoeConfig), yaml.string(), true);
      if (std::ssize(config.experts) <= model_->config.experts) config_ = std::move(config);
    } catch (const Error& error) {
      reporter.warning(fmt::format("experts have no names: {}", error.message()));
    }
  }

  std::unique_ptr<MoePlan> moe_;
  std::unique_ptr<PlannedModel> planned_;
  std::unique_ptr<Model> opened_;
  const Model* model_ = nullptr;
  std::optional<MoeConfig> config_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

// -------- texts

std::vector<LabelledText> read_all(const Arguments& a, const RoutedModel& mixture, const ExpertNames& names,
                                   RoutingReport& report) {
  std::vector<LabelledText> out;
  for (const std::string& value : a.texts) out.push_back(read_text_flag(value, names));
  for (const std::string& value : a.prompts) out.push_back(read_prompt_flag(value, names));
  if (!out.empty()) return out;
  if (mixture.config()) out = configured_prompts(mixture.kept(), *mixture.config());
  if (out.empty() && !mixture.has_data())
    fail(ErrorKind::usage, "which text? --text FILE or --prompt TEXT{}",
         mixture.config() ? " (its YAML has no positive prompts to take instead)" : "");
  report.note = fmt::format(
      "The texts are the YAML's own {}{}, which the routers were made from; --text measures with text that "
      "they "
      "do not know.",
      out.empty() ? "data" : "positive prompts", !out.empty() && mixture.has_data() ? " and data" : "");
  return out;
}

// How many tokens of each text are shown: all, or the first of each for a page.
void keep_tokens(const Arguments& a, const RoutingReport& report, std::vector<TextWindow>& windows) {
  int64_t total = 0;
  for (const TextWindow& window : windows) total += std::ssize(window.tokens);
  const int64_t each = report.layers() * (report.experts() + kLayerEntry);
  if (a.per_token && total > kMaxKept / each)
    fail(ErrorKind::usage,
         "--per-token: {} tokens in {} layers with {} experts are too many to list; --max-tokens {} would do",
         total, report.layers(), report.experts(),
         std::max<int64_t>(1, kMaxKept / each / std::ssize(report.texts)));
  int64_t left = a.per_token ? total : a.html.empty() ? 0 : std::min(kPageTokens, kMaxKept / each);
  int64_t texts_left = std::ssize(report.texts), quota = 0;
  for (size_t i = 0; i < windows.size(); i++) {
    if (i == 0 || windows[i].text != windows[i - 1].text) {
      quota = a.per_token ? left : (left + texts_left - 1) / texts_left;
      texts_left--;
    }
    windows[i].kept = std::min({quota, left, std::ssize(windows[i].tokens)});
    quota -= windows[i].kept;
    left -= windows[i].kept;
  }
}

// -------- the pass

// Windows that go through the mixture together.
class Pass {
 public:
  Pass(std::span<const TextWindow> windows, const TextCutter& cutter, RoutingReport& report)
      : windows_(windows), report_(report), kept_(windows.size()) {
    for (size_t i = 0; i < windows.size(); i++) {
      const TextWindow& window = windows[i];
      sequences_.push_back(window.tokens);
      tokens_ += std::ssize(window.tokens);
      if (window.kept == 0) continue;
      std::vector<std::string> pieces = cutter.pieces(window.tokens);
      for (int64_t t = 0; t < window.kept; t++)
        kept_[i].push_back({.id = window.tokens[static_cast<size_t>(t)],
                            .piece = std::move(pieces[static_cast<size_t>(t)]),
                            .counted = t >= window.prefix});
    }
  }

  void run(StreamingDecoder& decoder, Progress& progress) {
    const PassTaps taps = {.router = [&](const RouterView& view) {
      look(view);
      progress.add(tokens_ * (view.layer + 1) / report_.layers() - tokens_ * view.layer / report_.layers());
    }};
    const std::vector<float> probabilities = decoder.log_probabilities(sequences_, taps);
    size_t next = 0;
    for (size_t i = 0; i < windows_.size(); i++) {
      RoutedText& text = report_.texts[windows_[i].text];
      for (size_t t = 1; t < windows_[i].tokens.size(); t++) text.log_probability += probabilities[next++];
      text.predicted += std::ssize(windows_[i].tokens) - 1;
      std::ranges::move(kept_[i], std::back_inserter(text.kept));
    }
  }

 private:
  void look(const RouterView& view) {
    const auto experts = static_cast<size_t>(report_.experts());
    std::span<const float> rest = view.logits;
    for (size_t i = 0; i < windows_.size(); i++) {
      const TextWindow& window = windows_[i];
      RoutedText& text = report_.texts[window.text];
      const std::span<const float> rows = rest.first(window.tokens.size() * experts);
      rest = rest.subspan(rows.size());
      const auto counted = rows.subspan(static_cast<size_t>(window.prefix) * experts);
      const std::vector<int64_t> meant(counted.size() / experts, text.meant);
      report_.stats.add(view.layer, counted, meant, report_.routing.experts_per_token);
      text.first.resize(experts);
      for (size_t at = 0; at < counted.size(); at += experts)
        text.first[static_cast<size_t>(std::ranges::max_element(counted.subspan(at, experts)) -
                                       counted.subspan(at, experts).begin())]++;
      for (size_t t = 0; t < kept_[i].size(); t++) {
        const auto row = rows.subspan(t * experts, experts);
        kept_[i][t].logits.insert(kept_[i][t].logits.end(), row.begin(), row.end());
      }
    }
  }

  std::span<const TextWindow> windows_;
  RoutingReport& report_;
  std::vector<std::vector<RoutedToken>> kept_;
  std::vector<TokenSequence> sequences_;
  int64_t tokens_ = 0;
};

void run_all(const Arguments& a, const Model& model, const TextCutter& cutter,
             std::span<const TextWindow> windows, RoutingReport& report, Reporter& reporter) {
  DecoderOptions options = decoder_options(a.how, a.threads);
  options.threads = a.threads;  // nothing is copied meanwhile
  // Which expert comes second is often a matter of digits that bfloat16's products do not have.
  if (options.weights == WeightType::as_stored) options.weights = WeightType::f32;
  StreamingDecoder decoder(model, options);
  const int64_t token_bytes = 4 * (3 * model.config.hidden + 2 * model.config.experts);
  const int64_t most = std::max(report.window, kPassBytes / token_bytes);
  int64_t total = 0;
  for (const TextWindow& window : windows) total += std::ssize(window.tokens);
  Progress progress(reporter, "routed", total, Unit::tokens);
  for (size_t first = 0; first < windows.size();) {
    size_t end = first;
    for (int64_t tokens = 0; end < windows.size(); end++) {
      tokens += std::ssize(windows[end].tokens);
      if (end > first && tokens > most) break;
    }
    Pass(windows.subspan(first, end - first), cutter, report).run(decoder, progress);
    first = end;
  }
  progress.finish();
}

std::vector<Collision> read_collisions(const Model& model) {
  const ModelConfig& config = model.config;
  GateTable table(config.layers, config.experts, config.hidden);
  for (int64_t layer = 0; layer < config.layers; layer++) {
    const auto size = static_cast<size_t>(config.experts * config.hidden);
    read_row_values(model.tensor(Role::router, layer), 0, config.experts,
                    std::span(table.values).subspan(static_cast<size_t>(layer) * size, size));
  }
  return find_collisions(table, config.experts);
}

void report_left_out(const std::vector<RoutedText>& texts, int64_t max_tokens, Reporter& reporter) {
  for (const RoutedText& text : texts)
    if (text.left_out > 0)
      reporter.info(
          fmt::format("{}: its first {} tokens are read, the other {} are left out (--max-tokens {})",
                      text.name, text.tokens, human_bytes(text.left_out), max_tokens));
}

}  // namespace

int run_route(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Runs a mixture of experts over text and reports where its routers send the tokens: each expert's "
      "share in each\n"
      "layer, whether texts reach the expert that they are meant for, how well the mixture predicts them "
      "(perplexity),\n"
      "and in words what is wrong: idle experts, greedy ones, routers that cannot decide. Of a YAML nothing "
      "is built:\n"
      "change its prompts, run again.\n\n"
      "examples:  moerge route moe.yaml                                   # the prompts it is made from\n"
      "           moerge route moe.yaml --text code=code.txt --text maths=maths.jsonl --html routing.html\n"
      "           moerge route mistralai/Mixtral-8x7B-v0.1 --prompt \"def quicksort(a):\" --json "
      "--per-token\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  check_device_flags(a.how);
  if (a.per_token && !a.json) fail(ErrorKind::usage, "--per-token goes into what --json prints: add --json");
  if (!a.html.empty()) check_page(a.html, a.overwrite);
  a.how.cache = a.cache;
  check_device(decoder_options(a.how, a.threads).device);
  Reporter reporter(a.quiet ? Verbosity::quiet : Verbosity::normal);

  RoutedModel mixture(a, reporter);
  const ModelConfig& config = mixture.model().config;
  RoutingReport report(a.model, config);
  const ExpertNames names =
      mixture.config() ? ExpertNames(mixture.kept(), *mixture.config()) : ExpertNames(config.experts);
  for (int64_t e = 0; e < names.count(); e++) report.names[static_cast<size_t>(e)] = names.short_name(e);
  report.has_prompts = mixture.has_prompts();
  report.window = config.max_positions >= kMinWindow ? std::min(a.window, config.max_positions) : a.window;

  const TextCutter cutter(mixture.tokenizer(), report.window, a.max_tokens);
  std::vector<TextWindow> windows;
  for (const LabelledText& text : read_all(a, mixture, names, report))
    cutter.add(text, report.texts, windows);
  if (a.texts.empty() && a.prompts.empty() && mixture.has_data()) mixture.add_data(cutter, report, windows);
  report_left_out(report.texts, a.max_tokens, reporter);
  keep_tokens(a, report, windows);
  mixture.make_routers(a, reporter);
  run_all(a, mixture.model(), cutter, windows, report, reporter);
  report.collisions = read_collisions(mixture.model());

  if (!a.html.empty()) write_page(a.html, routing_page(report));
  const bool terminal = isatty(STDOUT_FILENO) == 1, plain = !terminal || std::getenv("NO_COLOR");
  print_result(a.json ? json_text(routing_json(report, a.per_token))
                      : routing_text(report, {.bars = !plain, .colours = !plain}));
  if (!a.html.empty()) reporter.info(fmt::format("{} is ready: open it in a browser", a.html));
  return 0;
}

}  // namespace moerge
