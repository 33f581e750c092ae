#pragma once
// What the card of a model folder says: of a mixture that is planned, of an expert that is taken out of one,
// and of any folder as it lies there. hub/card.h makes README.md of it.

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "moerge/hub/card.h"
#include "moerge/moe/extract.h"
#include "moerge/moe/planner.h"

namespace moerge {

/// Where the model of a reference lies and what it is called on the Hub; a path is empty for what is not
/// here.
using Locate = std::function<ModelLocation(const std::string& reference)>;

/// What a card is made of. A plan and the folder that was built from it give the same.
struct CardInput {
  std::string title;
  std::string repository = {};            // where it can be had, for the usage; empty: the title
  Json config;                            // config.json
  std::vector<TensorSpec> tensors;        // of its files
  bool chat_template = false;             // messages can be given to it
  bool mergekit = false;                  // it made the folder
  std::optional<MoeConfig> mixture = {};  // the YAML of a mixture
  std::string merge = {};                 // the YAML of a dense merge; empty: none
  std::string merge_file = {};            // for messages
};

struct FolderCard {
  Card card;
  std::vector<std::string> notes = {};  // what its maker should know, a sentence each
  std::string no_license = {};          // likewise: why the models' own cards give it no license
};

/// Of a folder with config.json and weights, a merge or not; reads their headers. `notes` gets what is
/// damaged beside them.
CardInput read_card_input(const std::filesystem::path& folder, std::vector<std::string>& notes);
FolderCard make_card(const CardInput& input, const Locate& locate);

/// Of a plan. `with_tokenizer`: its folder will have one.
FolderCard moe_card(const MoePlan& moe, const std::string& name, bool with_tokenizer);
/// README.md of it.
std::string model_card(const MoePlan& moe, const std::string& name);
/// README.md of an expert that was taken out of a mixture.
std::string expert_card(const ExtractPlan& extract, const std::string& name);

/// The shares of experts in what `moerge route --json` prints. Throws input when it is something else.
CardSection routing_section(const Json& report, const std::string& where);

}  // namespace moerge
