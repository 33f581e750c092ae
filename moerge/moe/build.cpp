#include "moerge/moe/build.h"

#include "moerge/base/error.h"
#include "moerge/moe/card.h"
#include "moerge/moe/gate_job.h"

namespace moerge {

void check_build(const MoePlan& moe, const BuildOptions& options) {
  std::vector<const Model*> sources;
  for (const auto& [location, model] : moe.opened) sources.push_back(model.get());
  check_folder(moe.plan, sources, options);
  if (moe.chat_template && !options.copy_tokenizer)
    fail(ErrorKind::usage,
         "{}: a chat_template is written into the tokenizer's files, which --no-copy-tokenizer leaves out: "
         "take one of the two away",
         moe.config.chat_template.place);
}

void build_moe(MoePlan& moe, const BuildOptions& options, std::unique_ptr<PromptEncoder> encoder,
               Reporter& reporter) {
  check_build(moe, options);
  const GateJob job(moe, std::move(encoder), reporter);
  const FolderCard card = moe_card(moe, folder_name(options.out), options.copy_tokenizer);
  if (options.write_card && !card.no_license.empty()) reporter.info(card.no_license);
  const FolderContent content = {.plan = moe.plan,
                                 .config = moe.model_config,
                                 .tokenizer = *moe.models.base,
                                 .chat_template = moe.chat_template ? &moe.chat_template->text : nullptr,
                                 .card = render_card(card.card),
                                 .files = {{"mergekit_moe_config.yml", moe.config.yaml}}};
  write_model_folder(
      content, options, [&] { job.check(); }, reporter);
}

}  // namespace moerge
