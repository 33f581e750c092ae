// moerge gguf SOURCE OUT: arguments, what SOURCE is, and the order in which things happen.

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/export_source.h"
#include "moerge/cli/source_flags.h"
#include "moerge/export/write.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

struct Arguments {
  std::string source, out, types = "q4_k_m", split, output_type, embedding_type, importance, pre, name,
                           layout_files = "auto";
  std::vector<std::string> overrides;
  SourceOptions how;
  int threads = default_threads(), verbosity = 0;
  bool overwrite = false, dry_run = false, json = false, quiet = false;
};

std::string type_list() {
  std::string text = "types:\n";
  for (const FileType& type : file_types()) text += fmt::format("  {:<10} {}\n", type.name, type.summary);
  return text +
         "Any case; Q3_K, Q4_K and Q5_K mean the _M mixtures, auto is BF16 or F16 as the weights are.\n";
}

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option(
         "SOURCE", a.source,
         "an MoE YAML, a model folder, a GGUF file or a model in the Hugging Face cache; MODEL#expert=3 "
         "is one expert of a mixture")
      ->required();
  app.add_option("OUT", a.out, "folder for the files (NAME.TYPE.gguf), or one file ending in .gguf")
      ->required();
  const std::string what = "What is written";
  app.add_option("-t,--type", a.types, "types, as a list: q4_k_m,q5_k_m,q8_0 (q4_k_m)")->group(what);
  app.add_option("--imatrix", a.importance, "importance matrix to quantise with (`moerge imatrix` makes one)")
      ->group(what);
  app.add_option("--output-type", a.output_type, "type of the output matrix: q8_0, f16, ...")->group(what);
  app.add_option("--embedding-type", a.embedding_type, "type of the token embeddings")->group(what);
  app.add_option(
         "--tensor-type", a.overrides,
         "PATTERN=TYPE: type of the tensors whose GGUF name matches a regular expression, first match wins, "
         "as often as needed: --tensor-type 'ffn_down_exps=q6_k'")
      ->group(what)
      ->take_all();
  app.add_option("--pre", a.pre,
                 "the pre-tokenizer's name in llama.cpp (tokenizer.ggml.pre), when it is not recognised")
      ->group(what);
  const std::string files = "Files";
  app.add_option("--name", a.name, "NAME of the files and of the model (SOURCE's name)")->group(files);
  app.add_option("--split-max-size", a.split, "bytes per file, several files then: 4G, 500M (G is 10^9)")
      ->group(files);
  app.add_option(
         "--layout-files", a.layout_files,
         "auto: where the file system can share blocks (XFS, Btrfs) and tensors keep their type, the file "
         "begins so that they take neither time nor space; size: as llama.cpp's converter lays it out (auto)")
      ->check(CLI::IsMember({"auto", "size"}))
      ->group(files);
  app.add_flag("--overwrite", a.overwrite, "write files again that exist (else they are skipped)")
      ->group(files);
  add_remote_flag(app, a.how);
  app.add_option("--transformers-cache", a.how.cache,
                 "look for models here instead of the Hugging Face cache")
      ->group(files);
  const std::string moe = "When SOURCE is a YAML";
  app.add_flag("--allow-crimes", a.how.allow_crimes,
               "combine models of different types, such as llama and mistral")
      ->group(moe);
  app.add_flag("--i-understand-this-is-not-useful-without-training", a.how.allow_all_same,
               "allow all experts to be one model")
      ->group(moe);
  app.add_option("--random-seed", a.how.seed, "seed of random gates and noise (0)")
      ->check(whole_number)
      ->group(moe);
  app.add_option("--device", a.how.device, "where hidden states are computed: cpu (the default), auto")
      ->group(moe);
  app.add_flag("--load-in-4bit", a.how.four_bit, "compute hidden states with 4-bit weights")->group(moe);
  app.add_flag("--load-in-8bit", a.how.eight_bit, "compute hidden states with 8-bit weights")->group(moe);
  const std::string report = "How it runs";
  app.add_option("-j,--threads", a.threads, "threads (all cores)")->check(CLI::Range(1, 1024))->group(report);
  app.add_flag("--dry-run", a.dry_run, "check everything, print the plan, write nothing")->group(report);
  app.add_flag("--json", a.json, "print the plan as JSON on stdout")->group(report);
  app.add_flag("--quiet,!--no-quiet", a.quiet, "warnings and errors only")->group(report);
  app.add_flag("-v,--verbose", a.verbosity, "say more")->group(report);
}

std::pair<std::string, DType> parse_override(const std::string& text) {
  const size_t sign = text.rfind('=');
  if (sign == std::string::npos || sign == 0)
    fail(ErrorKind::usage, "--tensor-type {}: PATTERN=TYPE is expected, like ffn_down_exps=q6_k", text);
  return {text.substr(0, sign), parse_tensor_type(text.substr(sign + 1), "--tensor-type " + text)};
}

ExportOptions export_options(const Arguments& a, std::optional<Importance>& importance) {
  ExportOptions options;
  if (!a.output_type.empty()) options.output_type = parse_tensor_type(a.output_type, "--output-type");
  if (!a.embedding_type.empty())
    options.embedding_type = parse_tensor_type(a.embedding_type, "--embedding-type");
  for (const std::string& text : a.overrides) options.overrides.push_back(parse_override(text));
  if (!a.split.empty()) options.max_part_bytes = parse_size(a.split, "--split-max-size");
  if (!a.importance.empty()) {
    importance = read_importance(a.importance);
    options.importance = &*importance;
  }
  return options;
}

bool is_single_file(const Arguments& a) { return fs::path(a.out).extension() == ".gguf"; }

// Where each type goes. An OUT that ends in .gguf is the file itself.
fs::path target_path(const Arguments& a, const std::string& name, const FileType& type) {
  if (is_single_file(a)) return fs::absolute(a.out);
  return fs::absolute(a.out) / fmt::format("{}.{}.gguf", name, type.name);
}

// A finished file of an earlier run, whole or in parts.
bool exists_already(const fs::path& whole) {
  if (fs::exists(whole)) return true;
  if (!fs::is_directory(whole.parent_path())) return false;
  const std::string stem = whole.stem().string() + "-00001-of-";
  return std::ranges::any_of(
      fs::directory_iterator(whole.parent_path()),
      [&](const fs::directory_entry& entry) { return entry.path().filename().string().starts_with(stem); });
}

void check_target(const Arguments& a, const std::vector<const FileType*>& types) {
  if (a.out.empty()) fail(ErrorKind::usage, "OUT is empty: name a folder to write to");
  if (is_single_file(a) && types.size() > 1)
    fail(ErrorKind::usage, "OUT is one file ({}), and --type asks for {} types: name a folder", a.out,
         types.size());
  if (!is_single_file(a) && fs::exists(a.out) && !fs::is_directory(a.out))
    fail(ErrorKind::usage, "OUT {} exists and is not a folder", a.out);
}

void check_space(const fs::path& folder, const std::vector<OutputFile>& files) {
  int64_t needed = 0;
  for (const OutputFile& file : files) needed += file.bytes() - file.shared;
  if (const int64_t free = free_space(folder); needed > free)
    fail(ErrorKind::io, "not enough space in {}: {} needed, {} free", folder.string(), human_bytes(needed),
         human_bytes(free));
}

std::string type_shares(const OutputFile& file) {
  std::vector<std::pair<std::string_view, int64_t>> shares;
  for (const TensorSpec& spec : file.specs) {
    const std::string_view name = info(spec.dtype).gguf;
    const auto found = std::ranges::find(shares, name, &std::pair<std::string_view, int64_t>::first);
    found == shares.end() ? (void)shares.emplace_back(name, 1) : (void)found->second++;
  }
  std::vector<std::string> parts;
  for (const auto& [name, count] : shares) parts.push_back(fmt::format("{} {}", count, name));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string describe_file(const ExportPlan& plan, const OutputFile& file) {
  const double bits = static_cast<double>(file.bytes()) * 8 / static_cast<double>(plan.parameters.total);
  const std::string shared =
      file.shared > 0 ? human_bytes(file.shared) + " of them shared with the sources, " : "";
  return fmt::format("  {}{}  {}, {}{:.2f} bits a weight ({})", file.parts.front().path.string(),
                     file.parts.size() > 1 ? fmt::format(" and {} more", file.parts.size() - 1) : "",
                     human_bytes(file.bytes()), shared, bits, type_shares(file));
}

Json json_plan(const ExportPlan& plan, const std::vector<OutputFile>& files) {
  Json out = {{"architecture", std::string(plan.family->arch)},
              {"parameters", plan.parameters.total},
              {"files", Json::array()}};
  for (const OutputFile& file : files) {
    Json tensors = Json::array(), paths = Json::array();
    for (const TensorSpec& spec : file.specs)
      tensors.push_back(
          {{"name", spec.name}, {"type", std::string(info(spec.dtype).gguf)}, {"shape", spec.shape}});
    for (const OutputFile::Part& part : file.parts) paths.push_back(part.path.string());
    out["files"].push_back({{"type", std::string(file.type->name)},
                            {"bytes", file.bytes()},
                            {"shared", file.shared},
                            {"paths", std::move(paths)},
                            {"tensors", std::move(tensors)}});
  }
  return out;
}

void report_plan(const ExportPlan& plan, const std::vector<OutputFile>& files, Reporter& reporter) {
  reporter.info(fmt::format("{} tensors of a {} model:", plan.tensors.size(), plan.family->arch));
  for (const OutputFile& file : files) reporter.info(describe_file(plan, file));
  for (const OutputFile& file : files)
    for (const TensorSpec& spec : file.specs)
      reporter.detail(fmt::format("  {} {} {} {}", file.type->name, spec.name, info(spec.dtype).gguf,
                                  to_string(spec.shape)));
}

// Folders on the way to OUT that this run made, removed again when it fails.
class NewFolder {
 public:
  explicit NewFolder(const fs::path& folder) {
    for (fs::path at = folder; !fs::exists(at) && at.has_relative_path(); at = at.parent_path())
      made_.push_back(at);
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) fail(ErrorKind::io, "cannot create {}: {}", folder.string(), error.message());
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder() {
    std::error_code ignored;  // what is not empty stays
    for (const fs::path& folder : made_) fs::remove(folder, ignored);
  }

 private:
  std::vector<fs::path> made_;  // innermost first
};

void write_files(const Arguments& a, OpenSource& source, const ExportPlan& plan,
                 const std::vector<OutputFile>& files, const ExportOptions& options, Reporter& reporter) {
  const NewFolder folder(files.front().parts.front().path.parent_path());
  check_space(files.front().parts.front().path.parent_path(), files);
  write_source(source, plan, files, options, a.threads, reporter);
}

// "auto" is the 16-bit type that the weights have.
std::string resolve_auto(const std::string& types, const Plan& plan) {
  return std::regex_replace(types, std::regex("\\bauto\\b", std::regex::icase),
                            std::string(wide_type(plan).name));
}

int run(const Arguments& a, Reporter& reporter) {
  check_target(a, parse_file_types(resolve_auto(a.types, {})));
  std::optional<Importance> importance;
  ExportOptions options = export_options(a, importance);
  SourceOptions how = a.how;
  if (a.dry_run) how.fetch = Fetch::headers;
  OpenSource source(a.source, how, a.threads, reporter);
  const std::vector<const FileType*> types = parse_file_types(resolve_auto(a.types, source.plan()));
  const std::string name = !a.name.empty() ? a.name : source.name();
  if (name.empty() || name.find('/') != std::string::npos)
    fail(ErrorKind::usage, "--name {}: a file name is expected", name);

  std::vector<std::pair<const FileType*, fs::path>> wanted;
  for (const FileType* type : types) {
    const fs::path path = target_path(a, name, *type);
    if (!a.overwrite && exists_already(path))
      reporter.info(
          fmt::format("{} exists already and is skipped (--overwrite writes it again)", path.string()));
    else
      wanted.push_back({type, path});
  }
  if (wanted.empty()) source.forget();
  if (wanted.empty() && !a.json) return 0;

  const ExportPlan plan = plan_export(source.describe(name), source.plan(), {.pre = a.pre});
  for (const std::string& warning : source.warnings()) reporter.warning(warning);
  for (const std::string& warning : plan.warnings) reporter.warning(warning);
  std::vector<OutputFile> files;
  if (a.layout_files == "auto" && !wanted.empty())
    options.sharing = sharing_with(wanted.front().second.parent_path());
  for (const auto& [type, path] : wanted) {
    files.push_back(plan_output(plan, *type, path, options));
    for (const std::string& warning : files.back().warnings) reporter.warning(warning);
  }
  if (!a.dry_run && !files.empty()) {
    report_plan(plan, files, reporter);
    write_files(a, source, plan, files, options, reporter);
    source.forget();
  }
  if (a.json)
    print_result(json_text(json_plan(plan, files)));
  else if (a.dry_run) {
    for (const OutputFile& file : files) print_result(printable(describe_file(plan, file)) + "\n");
    print_result("nothing was written (--dry-run)\n");
  }
  if (a.dry_run) source.forget_headers();
  return 0;
}

}  // namespace

int run_gguf(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Writes GGUF files that llama.cpp, LM Studio and Ollama load: straight from the experts of an MoE "
      "YAML, with "
      "no\ncheckpoint in between, or from a model folder. Several types come from one reading of the "
      "weights.\n\n"
      "examples:  moerge gguf moe.yaml out --type q4_k_m,q5_k_m\n"
      "           moerge gguf ./Beyonder-4x7B out/beyonder.Q8_0.gguf --type q8_0\n"
      "           moerge gguf moe.yaml out --type iq3_xxs --imatrix moe.imatrix.gguf\n",
      std::string(program));
  app.footer(type_list());
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  if (a.how.four_bit && a.how.eight_bit)
    fail(ErrorKind::usage, "--load-in-4bit and --load-in-8bit exclude each other");
  Reporter reporter(a.quiet ? Verbosity::quiet : a.verbosity > 0 ? Verbosity::verbose : Verbosity::normal);
  return run(a, reporter);
}

}  // namespace moerge
