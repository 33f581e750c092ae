#include "moerge/cli/open_inference.h"

#include <fmt/format.h>

#include <chrono>
#include <future>

#include "moerge/base/available_memory.h"
#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/model_file.h"
#include "moerge/serve/inference_meter.h"
#include "moerge/serve/rpc.h"

namespace moerge {
namespace {

constexpr const char* kLimitVariable = "MOERGE_MEMORY_LIMIT";

std::optional<AvailableMemory> memory_to_use(const InferenceOptions& options) {
  if (leaves_processor(options)) return {};  // how much goes elsewhere is settled only while loading
  if (const auto limit = process_environment(kLimitVariable))
    return AvailableMemory{parse_size(*limit, kLimitVariable), kLimitVariable};
  return available_memory();
}

std::string parts(std::initializer_list<std::string> texts) {
  std::string out;
  for (const std::string& text : texts)
    if (!text.empty()) out += (out.empty() ? "" : ", ") + text;
  return out;
}

std::string model_line(const InferenceInfo& info, const ModelFile& file) {
  return info.name + ": " +
         parts({file.type, human_bytes(file.need.weights),
                info.experts > 0
                    ? fmt::format("mixture of {} experts, {} per token", info.experts, info.experts_per_token)
                    : "",
                fmt::format("{} layer{}", info.layers, info.layers == 1 ? "" : "s")});
}

std::string context_line(const InferenceInfo& info, int parallel, double seconds) {
  const std::string pool =
      parallel > 1 ? fmt::format(" a request, {} for up to {} at once", info.pool_context, parallel) : "";
  return fmt::format("context of {} tokens{}; {} of memory beside the weights; loaded in {:.{}f} s",
                     info.context, pool, human_bytes(info.cache_bytes + info.compute_bytes), seconds,
                     seconds < 10 ? 2 : 0);
}

// llama.cpp's server never gives a request more than the trained context.
void report_context(const ContextWish& wish, const ModelFile& file, Reporter& reporter) {
  if (wish.parallel == 1 && file.trained_context > 0 && wish.asked > rounded_context(file.trained_context))
    reporter.warning(fmt::format(
        "-c {}: the model was trained with contexts of {} tokens, and no conversation gets more than that",
        wish.asked, file.trained_context));
}

}  // namespace

ContextWish context_wish(const InferenceOptions& options) {
  const InferenceUse use = inference_use(options);
  return {.asked = use.context,
          .parallel = use.memory.sequences,
          .use = use.memory,
          .available = memory_to_use(options)};
}

std::unique_ptr<Inference> open_inference(const std::string& model, const InferenceFlags& flags, int parallel,
                                          Reporter& reporter) {
  InferenceOptions options = inference_options(flags);
  options.parallel = parallel;
  if (const std::string workers = flag_value(options.llama_flags, {"--rpc"}); !workers.empty())
    check_workers(workers);
  const ModelSource source = find_model(model, flags.source, reporter);
  options.name = flags.alias.empty() ? source.name : flags.alias;
  const ContextWish wish = context_wish(options);
  // In a thread that ends: else its OpenMP threads would stay, and slow down those that answer
  // (serve/inference.cpp).
  const ModelFile file =
      std::async(std::launch::async, [&] { return prepare_model(source, flags, wish, reporter); }).get();
  report_context(wish, file, reporter);
  options.model = file.path;
  options.context = file.need.context;
  options.request_context = file.need.request_context;

  const auto start = std::chrono::steady_clock::now();
  const auto size = std::max<int64_t>(file.need.weights, 1);
  Progress progress(reporter, "loaded", size);  // drawn on terminals; what follows takes its line
  auto inference = std::make_unique<Inference>(options, [&, done = int64_t{0}](double share) mutable {
    const auto now = static_cast<int64_t>(share * static_cast<double>(size));
    if (now <= done) return;
    progress.add(now - done);
    done = now;
  });
  check_interrupted();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const InferenceInfo& info = inference->info();
  reporter.info(model_line(info, file));
  reporter.info(context_line(info, wish.parallel, seconds.count()));
  if (info.template_refused)
    reporter.warning(info.template_note);
  else if (!info.template_note.empty())
    reporter.info(info.template_note);
  return inference;
}

}  // namespace moerge
