// moerge imatrix MODEL --text FILE: arguments, and the order in which things happen.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/base/parallel.h"
#include "moerge/base/progress.h"
#include "moerge/base/utf8.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/export_source.h"
#include "moerge/cli/json_lines.h"
#include "moerge/engine/decoder.h"
#include "moerge/engine/imatrix.h"
#include "moerge/export/importance.h"
#include "moerge/export/write.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxText = 1 << 30;

struct Arguments {
  std::string model, out, device = "cpu";
  std::vector<std::string> texts;
  int64_t chunk_size = 512, chunks = 0;
  int threads = default_threads();
  bool process_output = false, overwrite = false, json = false, quiet = false;
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("MODEL", a.model,
                 "GGUF file, best in f16, bf16 or f32 (of a split one the first file); or an MoE YAML or "
                 "model folder, of which a GGUF is made meanwhile")
      ->required();
  const std::string what = "What is measured";
  app.add_option("--text", a.texts,
                 "text to read, again for each file: UTF-8 as it is, or .jsonl with a \"text\" in each line; "
                 "several are joined in this order")
      ->required()
      ->allow_extra_args(false)
      ->group(what);
  app.add_option("--ctx", a.chunk_size,
                 "tokens of a chunk: what is further apart does not see each other (512)")
      ->check(CLI::Range(kMinChunkSize, kMaxChunkSize))
      ->group(what);
  app.add_option("--chunks", a.chunks, "read only so many chunks from the beginning (all)")
      ->check(CLI::Range(int64_t{1}, int64_t{INT32_MAX}))
      ->group(what);
  app.add_flag("--process-output", a.process_output, "measure output.weight as well")->group(what);
  const std::string files = "Files";
  app.add_option("-o,--output", a.out, "file to write (MODEL with .imatrix.gguf for .gguf)")->group(files);
  app.add_flag("--overwrite", a.overwrite, "replace an importance matrix that is there")->group(files);
  const std::string work = "How the work is done";
  app.add_option("-j,--threads", a.threads, "threads (all cores)")->check(CLI::Range(1, 1024))->group(work);
  app.add_option("--device", a.device,
                 "where the model runs: cpu (the default), auto, gpu or a device's name")
      ->group(work);
  const std::string report = "What is reported";
  app.add_flag("--json", a.json, "print what was measured, with tokens by expert, as JSON on stdout")
      ->group(report);
  app.add_flag("-q,--quiet", a.quiet, "warnings and errors only")->group(report);
}

// -------- MODEL and OUT

bool is_gguf(const fs::path& model) { return is_gguf_name(model) && fs::is_regular_file(model); }

// A GGUF of the YAML or model, 16 bits a weight, beside the result for as long as it is needed.
class TemporaryGguf {
 public:
  TemporaryGguf(const Arguments& a, const fs::path& out, Reporter& reporter)
      : path_(fs::absolute(out).parent_path() /
              fmt::format(".{}.moerge-model.gguf", out.filename().string())) {
    OpenSource source(a.model, {.device = a.device}, a.threads, reporter);
    const ExportPlan plan = plan_export(source.describe(source.name()), source.plan(), {});
    for (const std::string& warning : source.warnings()) reporter.warning(warning);
    const ExportOptions options;
    const OutputFile file = plan_output(plan, wide_type(source.plan()), path_, options);
    if (const int64_t free = free_space(path_); file.bytes() > free)
      fail(ErrorKind::io, "not enough space for a {} GGUF of \"{}\", which is needed meanwhile: {}, {} free",
           file.type->name, a.model, human_bytes(file.bytes()), human_bytes(free));
    reporter.info(fmt::format("makes a {} GGUF of {} first, {}, removed at the end", file.type->name, a.model,
                              human_bytes(file.bytes())));
    const std::function<void()> check = source.start(reporter);
    write_outputs(plan, std::span(&file, 1), options, {.threads = a.threads, .check = check});
  }
  TemporaryGguf(const TemporaryGguf&) = delete;
  TemporaryGguf& operator=(const TemporaryGguf&) = delete;
  ~TemporaryGguf() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

fs::path output_path(const Arguments& a) {
  if (!a.out.empty()) return a.out;
  fs::path out = a.model;
  if (!out.has_filename()) out = out.parent_path();  // "folder/"
  if (out.extension() == ".gguf" || is_yaml(out)) out.replace_extension();
  return out += ".imatrix.gguf";
}

bool is_importance(const fs::path& file) {
  try {
    read_importance(file);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// Before hours of work, not after them.
void check_output(const fs::path& out, bool overwrite) {
  const fs::path folder = fs::absolute(out).parent_path();
  if (!fs::is_directory(folder))
    fail(ErrorKind::usage, "cannot write {}: {} is not a folder", out.string(), folder.string());
  if (access(folder.c_str(), W_OK | X_OK) != 0) fail_errno("cannot write into", folder.string());
  if (!fs::exists(fs::symlink_status(out))) return;
  if (!fs::is_regular_file(out)) fail(ErrorKind::usage, "{} exists and is not a file", out.string());
  if (!overwrite)
    fail(ErrorKind::usage, "{} exists: choose another name with -o, or replace it with --overwrite",
         out.string());
  if (!is_importance(out))
    fail(ErrorKind::usage,
         "{} is not an importance matrix, so --overwrite does not replace it: choose another name with -o",
         out.string());
}

// -------- text

void append_text(std::string& text, std::string_view more) {
  text += more;
  if (!more.ends_with('\n')) text += '\n';
}

std::string read_texts(const std::vector<std::string>& files) {
  std::string text;
  for (const std::string& file : files) {
    if (!fs::exists(file)) fail(ErrorKind::usage, "--text \"{}\": there is no such file", file);
    const std::string content = read_file(file, kMaxText - std::ssize(text));
    if (const std::optional<size_t> wrong = find_invalid_utf8(content))
      fail(ErrorKind::input, "{}: no UTF-8 text: byte {} is 0x{:02x}", file, *wrong,
           static_cast<unsigned char>(content[*wrong]));
    if (fs::path(file).extension() == ".jsonl")
      for (const std::string& row : json_lines(content, file)) append_text(text, row);
    else if (!content.empty())
      append_text(text, content);
  }
  if (text.ends_with('\n')) text.pop_back();  // as llama.cpp's tool does it
  return text;
}

// -------- report

// Of each expert, its share of all tokens and the layers where it saw fewest and most.
std::string expert_text(const std::vector<ExpertLoad>& loads, int64_t tokens) {
  constexpr size_t kMaxLines = 16;
  struct Line {
    size_t expert;
    int64_t sum = 0;
    const ExpertLoad *fewest = nullptr, *most = nullptr;
  };
  std::vector<Line> lines;
  int64_t total = 0;
  for (const ExpertLoad& load : loads)
    for (size_t expert = 0; expert < load.tokens.size(); expert++) {
      if (lines.size() == expert) lines.push_back({.expert = expert});
      Line& line = lines[expert];
      line.sum += load.tokens[expert];
      total += load.tokens[expert];
      if (!line.fewest || load.tokens[expert] < line.fewest->tokens[expert]) line.fewest = &load;
      if (!line.most || load.tokens[expert] > line.most->tokens[expert]) line.most = &load;
    }
  const auto size = static_cast<double>(std::max<int64_t>(1, tokens * std::ssize(loads)));
  std::string out = fmt::format(
      "{} experts, {:.3g} for each token; an even share is {} of {} tokens in each of {} layers",
      lines.size(), static_cast<double>(total) / size, loads.front().even_share(), tokens, loads.size());
  if (lines.size() > kMaxLines) {
    std::ranges::stable_sort(lines, {}, &Line::sum);
    lines.resize(kMaxLines);
    out += fmt::format("; the {} that saw least", kMaxLines);
  }
  for (const Line& line : lines)
    out +=
        fmt::format("\n  expert {}: {:.1f} % of the work, {} (layer {}) to {} tokens (layer {})", line.expert,
                    100.0 * static_cast<double>(line.sum) / static_cast<double>(std::max<int64_t>(1, total)),
                    line.fewest->tokens[line.expert], line.fewest->layer, line.most->tokens[line.expert],
                    line.most->layer);
  return out;
}

Json result_json(const Arguments& a, const fs::path& out, const Imatrix& imatrix,
                 const std::vector<ExpertLoad>& loads) {
  Json experts = Json::array();
  for (const ExpertLoad& load : loads) experts.push_back({{"layer", load.layer}, {"tokens", load.tokens}});
  return {{"file", out.string()},       {"model", a.model},
          {"texts", a.texts},           {"tensors", imatrix.tensors.size()},
          {"chunks", imatrix.chunks},   {"chunk_size", imatrix.chunk_size},
          {"tokens", imatrix.tokens()}, {"experts", experts}};
}

}  // namespace

int run_imatrix(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Measures which weights of a model matter most, for quantising it: runs it over text and writes, for "
      "every "
      "column\n"
      "of every weight matrix, the mean square of what it is multiplied with (an \"importance matrix\"). A "
      "quantiser "
      "then\n"
      "rounds those columns with most care; below about 4 bits a weight that makes the difference. Of a "
      "mixture of "
      "experts\n"
      "each expert is measured on the tokens that its router sends to it, so give text of everything the "
      "experts are "
      "for;\n"
      "some 50,000 tokens (200 kB) are usual for a dense model, a mixture wants as much for each expert.\n\n"
      "example:  moerge imatrix moe.yaml --text code.txt --text maths.jsonl\n"
      "          moerge gguf moe.yaml out --type iq3_xxs --imatrix moe.imatrix.gguf\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;

  Reporter reporter(a.quiet ? Verbosity::quiet : Verbosity::normal);
  const fs::path out = output_path(a);
  check_output(out, a.overwrite);
  if (a.device == "auto") a.device = "cpu";
  check_device(a.device);
  const std::string text = read_texts(a.texts);
  std::optional<TemporaryGguf> made;
  if (!is_gguf(a.model)) {
    if (is_gguf_name(a.model) && !fs::exists(a.model))
      fail(ErrorKind::usage, "MODEL \"{}\": there is no such file", a.model);
    made.emplace(a, out, reporter);
  }
  const Imatrix imatrix =
      collect_imatrix(made ? made->path() : fs::path(a.model), text,
                      {.threads = a.threads,
                       .device = a.device,
                       .chunk_size = a.chunk_size,
                       .max_chunks = a.chunks > 0 ? std::optional(a.chunks) : std::nullopt,
                       .process_output = a.process_output},
                      reporter);
  const std::vector<ExpertLoad> loads = expert_loads(imatrix);
  if (!loads.empty()) reporter.info(expert_text(loads, imatrix.tokens()));
  for (const std::string& warning : load_warnings(loads)) reporter.warning(warning);
  write_importance(out, imatrix, a.texts);
  if (a.json) print_result(json_text(result_json(a, out, imatrix, loads)));
  reporter.info(fmt::format("{} is ready: {} tensors; moerge gguf and llama-quantize take it with --imatrix",
                            out.string(), imatrix.tensors.size()));
  return 0;
}

}  // namespace moerge
