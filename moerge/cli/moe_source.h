#pragma once
// From an MoE YAML on the command line to its plan and its encoder, for every command that takes one.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "moerge/base/progress.h"
#include "moerge/engine/decoder.h"
#include "moerge/hub/cache.h"
#include "moerge/moe/planner.h"
#include "moerge/plan/source_bytes.h"

namespace moerge {

/// What is brought of models that are on the Hub and not in the cache.
enum class Fetch {
  whole,    // into the cache
  used,     // the tensors that are read; they are gone afterwards
  headers,  // for a plan
};

/// What the flags say about it.
struct SourceOptions {
  std::string cache = {}, device = "cpu";
  int64_t seed = 0;
  bool allow_crimes = false, allow_all_same = false, four_bit = false, eight_bit = false;
  Fetch fetch = Fetch::whole;
};

class ModelFetcher;

/// The process's environment, with --transformers-cache for the Hub's cache.
Environment environment_of(const SourceOptions& options);

/// Leaves one of the threads to the copying (or quantising) that goes on meanwhile.
DecoderOptions decoder_options(const SourceOptions& options, int threads);

PlanOptions plan_options(const SourceOptions& options, Layout layout);

/// open_moe() of a YAML, its models fetched where they are not here: only once all of them fit and the whole
/// plan is sound, and `out` (empty: nothing is written) has room for the result. Throws what parsing,
/// resolving, planning and fetching throw.
MoePlan open_yaml(const std::filesystem::path& yaml, const SourceOptions& options,
                  const std::filesystem::path& out, ModelFetcher& fetcher);
/// The whole plan. Throws what planning throws as well.
MoePlan plan_yaml(const std::filesystem::path& yaml, const SourceOptions& options, Layout layout,
                  ModelFetcher& fetcher);

/// A matrix of an FFN, of a dense layer or of one expert.
bool is_ffn(Role role);

/// The weights that a pass of the base reads for the gate mode, which need not be among those of the result.
void add_encoder_weights(const MoePlan& moe, SourceBytes& read);

/// Over the base model or the planned mixture; null where the gate mode runs neither. `moe` must outlive it
/// and stay where it is.
std::unique_ptr<PromptEncoder> make_encoder(MoePlan& moe, const SourceOptions& options, int threads);

/// Once the routers are there: rows that collide, as warnings, and where they will send tokens.
void report_routers(const MoePlan& moe, Reporter& reporter);

}  // namespace moerge
