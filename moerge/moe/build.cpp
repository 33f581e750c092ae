#include "moerge/moe/build.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/moe/card.h"
#include "moerge/moe/gate_job.h"
#include "moerge/moe/saved_gates.h"
#include "moerge/plan/folder_build.h"

namespace moerge {
namespace {

std::vector<const Model*> list_sources(const MoePlan& moe) {
  std::vector<const Model*> sources;
  for (const auto& [location, model] : moe.opened) sources.push_back(model.get());
  for (const auto& [reference, made] : moe.made)
    for (const Model* model : made.made_of)
      if (std::ranges::find(sources, model) == sources.end()) sources.push_back(model);
  return sources;
}

}  // namespace

void check_build(const MoePlan& moe, const FolderLayout& layout, const BuildOptions& options) {
  check_folder(moe.plan, layout, list_sources(moe), options);
  if (moe.chat_template && !options.copy_tokenizer)
    fail(ErrorKind::usage,
         "{}: a chat_template is written into the tokenizer's files, which --no-copy-tokenizer leaves out: "
         "take one of the two away",
         moe.config.chat_template.place);
}

namespace {

constexpr const char* kRouters = "routers";

// What decides the routers and the small files, beside the models.
std::string recipe_of(const MoePlan& moe, const BuildOptions& options) {
  std::string out =
      fmt::format("{}\n{}\n{}\n{} {} {}\n", moe.config.yaml, moe.model_config.dump(), moe.gate_mode->name,
                  moe.gate_input.seed, options.copy_tokenizer, options.routers_with);
  if (moe.chat_template) out += moe.chat_template->text;
  for (const ExpertTokens& expert : moe.gate_input.experts)
    for (const auto* sequences : {&expert.positive, &expert.negative})
      for (const TokenSequence& sequence : *sequences) out += fmt::format("{}\n", fmt::join(sequence, " "));
  return out;
}

}  // namespace

void build_moe(MoePlan& moe, const FolderLayout& layout, const BuildOptions& options,
               std::unique_ptr<PromptEncoder> encoder, Reporter& reporter) {
  check_build(moe, layout, options);
  FolderBuild build(moe.plan, layout, options, recipe_of(moe, options), reporter);
  std::optional<GateJob> job;
  std::optional<Gates> routers;
  if (const auto saved = build.saved(kRouters)) routers = unpack_gates(*saved, moe.gate_input);
  if (routers) {
    std::promise<Gates> promise;
    promise.set_value(std::move(*routers));
    *moe.gates = promise.get_future().share();
  } else if (build.computes() || options.verify) {
    job.emplace(
        moe, std::move(encoder), reporter,
        moe.gate_mode->needs == GateNeeds::nothing  // then they are made again in no time
            ? std::function<void(const Gates&)>()
            : [&](const Gates& gates) { build.save(kRouters, pack_gates(gates)); });
  }
  const FolderCard card = moe_card(moe, folder_name(options.out), options.copy_tokenizer);
  if (options.write_card && options.part.count == 0 && !card.no_license.empty())
    reporter.info(card.no_license);
  const FolderContent content = {.config = moe.model_config,
                                 .write_tokenizer =
                                     [&](const std::filesystem::path& folder) {
                                       write_tokenizer_files(
                                           *moe.models.base, folder,
                                           moe.chat_template ? &moe.chat_template->text : nullptr);
                                     },
                                 .card = render_card(card.card),
                                 .files = {{"mergekit_moe_config.yml", moe.config.yaml}},
                                 .sources = list_sources(moe)};
  build.write(content, [&] {
    if (job) job->check();
  });
}

}  // namespace moerge
