// Answers requests with LlamaModel, without tasks and data sets: for bench/eval.py and
// tests/eval/likelihoods.py.
//
// usage: eval_score MODEL.gguf [FLAGS OF LLAMA.CPP] < requests.jsonl > answers.jsonl
//
// A request is {"context": ..., "continuation": ...} or {"context": ..., "until": [...], "max_tokens": N};
// answers come in the order of the requests.
#include <chrono>
#include <iostream>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/json.h"
#include "moerge/eval/llama_model.h"

namespace {

using namespace moerge;

int run(int argc, char** argv) {
  if (argc < 2) fail(ErrorKind::usage, "usage: eval_score MODEL.gguf [FLAGS OF LLAMA.CPP] < requests.jsonl");
  std::vector<LoglikelihoodRequest> scored;
  std::vector<GenerationRequest> written;
  std::vector<std::pair<bool, size_t>> order;
  for (std::string line; std::getline(std::cin, line);) {
    const Json row = parse_json(line, "stdin");
    const bool scores = row.contains("continuation");
    order.emplace_back(scores, scores ? scored.size() : written.size());
    if (scores)
      scored.push_back({row.at("context").get<std::string>(), row.at("continuation").get<std::string>()});
    else
      written.push_back({.context = row.at("context").get<std::string>(),
                         .until = row.at("until").get<std::vector<std::string>>(),
                         .max_tokens = row.at("max_tokens").get<int64_t>()});
  }
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  LlamaModel model(TokenModelOptions{.model = argv[1], .llama_flags = {argv + 2, argv + argc}});
  const auto loaded = Clock::now();
  std::vector<Loglikelihood> likelihoods(scored.size());
  std::vector<GeneratedText> texts(written.size());
  model.score(scored, [&](size_t i, const Loglikelihood& answer) { likelihoods[i] = answer; });
  model.generate(written, [&](size_t i, const GeneratedText& answer) { texts[i] = answer; });
  const auto end = Clock::now();
  for (const auto& [scores, i] : order) {
    Json row;
    if (scores)
      row = {{"value", likelihoods[i].value},
             {"greedy", likelihoods[i].greedy},
             {"tokens", likelihoods[i].tokens}};
    else
      row = {{"text", texts[i].text}, {"tokens", texts[i].tokens}};
    std::cout << row.dump() << "\n";
  }
  const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
  std::cerr << Json({{"load_seconds", seconds(loaded - start)},
                     {"seconds", seconds(end - loaded)},
                     {"computed_tokens", model.tokens().computed_tokens()}})
                   .dump()
            << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  moerge::install_interrupt_handler();
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
