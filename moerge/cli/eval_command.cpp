// moerge eval MODEL: arguments, and the order in which things happen.

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/partial_file.h"
#include "moerge/base/version.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/eval_tasks.h"
#include "moerge/cli/model_file.h"
#include "moerge/cli/open_inference.h"
#include "moerge/cli/source_flags.h"
#include "moerge/eval/llama_model.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;

constexpr const char* kResults = "results.json";
constexpr const char* kTables = "results.md";
constexpr const char* kPage = "results.html";
constexpr const char* kAnswers = "answers.jsonl";
// Widest first: a score is of the model, not of what a quantiser left of it, where memory allows.
constexpr const char* kTypes = "f32,bf16,f16,q8_0,q6_k,q5_k_m,q4_k_m";

struct Arguments {
  std::string model, out;
  TaskWish wish;
  int64_t shots = -1;
  std::vector<std::string> beside;
  InferenceFlags inference;
  bool list = false, json = false, quiet = false, routing = false;
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("MODEL", a.model,
                 kModelHelp + std::string("; or a folder that --out wrote: its results are shown again"));
  const char* const what = "What is asked";
  app.add_option("--suite", a.wish.suites,
                 "nous, openllm (the Open LLM Leaderboard of 2023), eq-bench or all; a list")
      ->delimiter(',')
      ->group(what);
  app.add_option("--tasks", a.wish.tasks,
                 "tasks and groups by name, or YAML files of your own (docs/eval-tasks.md); a list")
      ->delimiter(',')
      ->group(what);
  app.add_flag("--list", a.list, "print the names of all suites, groups and tasks")->group(what);
  app.add_option("--limit", a.wish.limit, "only the first N items of each task, for a look (all)")
      ->check(CLI::Range(int64_t{1}, int64_t{INT32_MAX}))
      ->group(what);
  app.add_option("--shots,--num_fewshot", a.shots,
                 "solved examples in front of each item (what the suite or the task says)")
      ->check(CLI::Range(0, 1000))
      ->group(what);
  app.add_option(
         "--data", a.wish.data,
         "folder with the items, TASK.jsonl and TASK.fewshot.jsonl or copies of the data sets' repositories; "
         "nothing is fetched (the Hugging Face cache, then the Hub)")
      ->group(what);
  app.add_flag("--as-published", a.wish.as_published,
               "with the known faults of the harnesses that published scores are from (docs/eval.md)")
      ->group(what);
  app.add_flag("--routing", a.routing,
               "also count where the routers of a mixture send each task: by expert and layer")
      ->group(what);
  const char* const files = "Results";
  app.add_option(
         "--out", a.out,
         "folder for the results and for every answer; a run that was cut off goes on there (MODEL.eval)")
      ->group(files);
  app.add_option(
         "--compare", a.beside,
         "results to show beside these on the page: folders of --out, or results.json of lm-eval; a list")
      ->delimiter(',')
      ->group(files);
  app.add_flag("--json", a.json, "print results.json instead of the tables")->group(files);
  app.add_flag("-q,--quiet", a.quiet, "results, warnings and errors only")->group(files);
  add_model_flags(app, a.inference,
                  "tokens of the longest text (what the longest item needs, 8192 at most, as far as the "
                  "model was trained "
                  "with that)");
}

void check_arguments(Arguments& a) {
  if (a.model.empty()) fail(ErrorKind::usage, "MODEL is missing: moerge eval MODEL --suite nous");
  if (!a.wish.data.empty() && !fs::is_directory(a.wish.data))
    fail(ErrorKind::usage, "--data {}: there is no such folder", a.wish.data.string());
  if (a.shots >= 0) a.wish.shots = a.shots;
}

// Of a run of several suites, each has a folder in it.
[[noreturn]] void fail_without_results(const fs::path& given, const fs::path& file) {
  std::vector<std::string> suites;
  if (fs::is_directory(given))
    for (const auto& entry : fs::directory_iterator(given))
      if (fs::exists(entry.path() / kResults)) suites.push_back(entry.path().string());
  std::ranges::sort(suites);
  if (!suites.empty())
    fail(ErrorKind::usage, "{}: results of several suites; name one: {}", given.string(),
         fmt::join(suites, ", "));
  fail(ErrorKind::usage, "{}: there are no results, {} is missing", given.string(), file.string());
}

EvalReport read_report(const std::string& given) {
  const fs::path file = fs::is_directory(given) ? fs::path(given) / kResults : fs::path(given);
  if (!fs::exists(file)) fail_without_results(given, file);
  return parse_report(read_json(file, 256 << 20), file.string());
}

// -------- the results

void write_whole(const fs::path& file, const std::string& text) {
  PartialFile partial(file);
  partial.file().write_at(0, std::as_bytes(std::span(text)));
  partial.commit();
}

void write_report(const fs::path& out, const EvalReport& report, const std::vector<EvalReport>& beside) {
  write_whole(out / kResults, json_text(report_json(report)));
  write_whole(out / kTables, report_markdown(report));
  std::vector<EvalReport> all = {report};
  all.insert(all.end(), beside.begin(), beside.end());
  if (all.size() > kMaxPageReports) all.resize(kMaxPageReports);
  write_whole(out / kPage, report_page(all));
}

void print_report(const Arguments& a, const EvalReport& report) {
  print_result(a.json ? json_text(report_json(report)) : report_markdown(report));
}

// -------- the model

std::string now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

// Tokens of the longest text that will be asked, by bytes: two of them a token at least, which only texts of
// rare letters do not reach. What is longer than the model's context is cut, and told.
int64_t wanted_context(const TaskRun& run) {
  constexpr size_t kBytesPerToken = 2;
  const auto longest = [](const std::vector<std::string>& texts) {
    return texts.empty() ? size_t{0} : std::ranges::max(texts, {}, &std::string::size).size();
  };
  size_t bytes = 0;
  for (const EvalItem& item : run.items)
    bytes = std::max(bytes, longest(item.contexts) + longest(item.continuations));
  const int64_t written = run.task.output_type == OutputType::generate_until ? run.task.max_gen_toks : 0;
  return static_cast<int64_t>(bytes / kBytesPerToken) + written + 16;
}

int64_t wanted_context(const std::vector<PreparedTasks>& all) {
  int64_t most = 0;
  for (const PreparedTasks& tasks : all)
    for (const TaskRun& run : tasks.runs) most = std::max(most, wanted_context(run));
  return most;
}

struct OpenModel {
  std::unique_ptr<LlamaModel> model;
  std::string name;         // "mixture"
  std::string description;  // "Q8_0, mixture.gguf"
  Json identity;            // for AnswersLog
};

OpenModel open_model(const Arguments& a, const std::vector<PreparedTasks>& tasks, Reporter& reporter) {
  const ModelSource source = find_model(a.model, a.inference.source, reporter);
  const InferenceOptions options = inference_options(a.inference);
  ContextWish wish = context_wish(options);
  const ModelFile file = prepare_model(source, a.inference, wish, reporter);
  int64_t context = file.need.request_context;
  if (a.inference.context == 0) context = std::min(context, rounded_context(wanted_context(tasks)));
  OpenModel out = {.model = nullptr, .name = source.name, .description = {}, .identity = {}};
  Progress progress(reporter, "loaded", std::max<int64_t>(file.need.weights, 1));
  out.model = std::make_unique<LlamaModel>(
      TokenModelOptions{.model = file.path,
                        .llama_flags = options.llama_flags,
                        .context = context,
                        .count_experts = a.routing},
      [&, done = int64_t{0}](double share) mutable {
        const auto loaded = static_cast<int64_t>(share * static_cast<double>(file.need.weights));
        if (loaded > done) progress.add(loaded - std::exchange(done, loaded));
      });
  out.description =
      fmt::format("{}{}{}", file.type, file.type.empty() ? "" : ", ", file.path.filename().string());
  if (a.routing && out.model->tokens().experts() == 0)
    reporter.warning(fmt::format("--routing: {} is no mixture of experts, nothing is counted", source.name));
  const FileStamp stamp = File::open_read(file.path).stamp();
  out.identity = {{"file", fs::absolute(file.path).string()},
                  {"bytes", stamp.bytes},
                  {"changed", stamp.changed},
                  {"flags", options.llama_flags},
                  {"context", out.model->context()}};
  reporter.info(
      fmt::format("{}: {}, texts of up to {} tokens", source.name, out.description, out.model->context()));
  return out;
}

// -------- the run

class Evaluation {
 public:
  Evaluation(const Arguments& a, const fs::path& out, const std::vector<PreparedTasks>& all,
             Reporter& reporter)
      : reporter_(reporter),
        counts_(a.routing),
        open_(open_model(a, all, reporter)),
        log_(out / kAnswers, open_.identity, reporter) {}

  /// Asks, and writes what is known after each task: whoever ends the run has that.
  EvalReport run(const PreparedTasks& tasks, const fs::path& out, const std::vector<EvalReport>& beside) {
    EvalReport report = {.model = open_.name,
                         .model_file = open_.description,
                         .date = now(),
                         .version = std::string(kVersion),
                         .expert_names = open_.model->expert_names(),
                         .tasks = {},
                         .suites = {}};
    const auto start = std::chrono::steady_clock::now();
    fs::create_directories(out);
    for (const TaskRun& run : tasks.runs) {
      report.tasks.push_back(ask_task(run));
      report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      write_report(out, report, beside);
    }
    if (tasks.suite) report.suites.push_back(summarize(*tasks.suite, report.tasks));
    write_report(out, report, beside);
    return report;
  }

 private:
  TaskResult ask_task(const TaskRun& run) {
    TaskResult result = ask(*open_.model, run, log_, reporter_);
    if (result.error && !run.error)
      reporter_.warning(fmt::format("{} has no score: {}", run.task.task, *result.error));
    const int64_t routed = result.routing ? result.routing->items : 0;
    if (counts_ && open_.model->tokens().experts() > 0 && !result.error && routed < result.items)
      reporter_.warning(
          fmt::format("{}: routing of {} of {} items; the others were answered before without --routing, "
                      "another folder (--out) counts all",
                      run.task.task, routed, result.items));
    return result;
  }

  Reporter& reporter_;
  bool counts_;  // where tokens are routed
  OpenModel open_;
  AnswersLog log_;
};

fs::path output_folder(const Arguments& a) {
  if (!a.out.empty()) return a.out;
  fs::path name = fs::path(a.model).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();
  return name.filename().string() + ".eval";
}

}  // namespace

int run_eval(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  a.inference.auto_types = kTypes;
  CLI::App app(
      "Asks a model the items of benchmarks and scores it as EleutherAI's lm-evaluation-harness does: the "
      "Nous\n"
      "suite, the Open LLM Leaderboard of 2023 and EQ-Bench, as LLM AutoEval runs them, or tasks of your "
      "own.\n"
      "Prints the tables; a folder keeps them, results.json for other programs, a page that compares "
      "models,\n"
      "and every answer. The same command goes on where one was cut off.\n\n"
      "examples:  moerge eval mixture.gguf --suite nous\n"
      "           moerge eval moe.yaml --tasks arc_challenge,mmlu --limit 100\n"
      "           moerge eval out --suite openllm --compare base.eval,expert.eval\n"
      "           moerge card out --eval out.eval/results.json\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, split_llama_flags(arguments, a.inference), program)) return 0;
  if (a.list) return print_result(list_tasks()), 0;
  check_arguments(a);

  Reporter reporter(a.quiet ? Verbosity::quiet : Verbosity::normal);
  std::vector<EvalReport> beside;
  for (const std::string& results : a.beside) beside.push_back(read_report(results));
  const fs::path out = output_folder(a);
  if (fs::exists(fs::path(a.model) / kResults) && !fs::exists(fs::path(a.model) / "config.json")) {
    const EvalReport report = read_report(a.model);
    if (!beside.empty()) write_report(a.out.empty() ? fs::path(a.model) : out, report, beside);
    print_report(a, report);
    return 0;
  }
  if (a.wish.suites.empty() && a.wish.tasks.empty())
    fail(ErrorKind::usage, "nothing to ask: --suite nous, --tasks arc_easy,... (--list prints all)");
  const std::vector<PreparedTasks> all = prepare_tasks(a.wish, reporter);
  const auto has_items = [](const TaskRun& run) { return !run.error; };
  const auto any_items = [&](const PreparedTasks& tasks) {
    return std::ranges::any_of(tasks.runs, has_items);
  };
  if (std::ranges::none_of(all, any_items))
    fail(ErrorKind::input, "there is nothing to ask the model: no task could be prepared");
  fs::create_directories(out);
  Evaluation evaluation(a, out, all, reporter);
  bool failed = false;
  for (const PreparedTasks& tasks : all) {  // of several suites each has a folder of its own
    const std::string name = tasks.suite ? tasks.suite->suite : "tasks";
    const EvalReport report = evaluation.run(tasks, all.size() == 1 ? out : out / name, beside);
    if (&tasks != &all.front() && !a.json) print_result("\n");  // a table needs an empty line before it
    print_report(a, report);
    for (const TaskResult& result : report.tasks) failed = failed || result.error;
  }
  reporter.info(fmt::format("results and answers are in {}", out.string()));
  return failed ? 1 : 0;
}

}  // namespace moerge
