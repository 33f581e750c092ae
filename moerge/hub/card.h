#pragma once
// A model card: what the README.md of a repository says, as data, and the one place where it becomes Markdown
// with YAML in front (https://huggingface.co/docs/hub/model-cards). Every text in here may come from a
// stranger; only render_card() knows what Markdown and YAML make of its characters.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

/// A piece of a sentence.
struct CardSpan {
  enum class Kind {
    text,
    code,  // a name, as it is
    link,  // a name with its page on the Hub; without `hub_name` the name alone
  };
  Kind kind;
  std::string text;
  std::string hub_name = {};  // "org/name"
};
/// A sentence or a paragraph.
using CardText = std::vector<CardSpan>;

CardSpan card_text(std::string text);
CardSpan card_code(std::string text);
CardSpan card_link(std::string text, std::string hub_name);

struct CardTable {
  std::vector<std::string> columns;
  std::vector<CardText> rows = {};  // a span a cell
  size_t first_number = 1;          // the columns from here on are set to the right
};

/// Part of a card under a heading.
struct CardSection {
  std::string heading;
  std::vector<CardText> paragraphs = {};
  std::optional<CardTable> table = {};
  struct Code {
    std::string language, text;
  };
  std::vector<Code> blocks = {};
};

/// A model that this one is made of, and what it contributes.
struct CardModel {
  CardText name;
  CardText description = {};
};
struct CardList {
  CardText intro;
  int64_t first = -1;  // number of the first; -1: not numbered
  std::vector<CardModel> models = {};
};

/// One score of a task, as a harness reports it.
struct CardScore {
  std::string task;  // "arc_challenge"
  std::string dataset = {}, dataset_config = {},
              split = {};   // of the Hub; empty where the report does not say
  std::string metric;       // "acc_norm"
  std::string filter = {};  // what the answer was read with; empty: nothing
  double value = 0;
  std::optional<double> error = {};  // standard error
  std::optional<int64_t> shots = {};
  std::string dataset_name = {};     // "AI2 Reasoning Challenge"; empty: the task's name
  int64_t items = 0, all_items = 0;  // asked, and in the split; 0 where the report does not say
  std::string harness = {};          // what measured it; empty: the LM Evaluation Harness
};

/// A licence as front matter states it.
struct CardLicense {
  std::string id;          // of the Hub's list; empty: not known
  std::string name, link;  // where the id is "other"

  bool operator==(const CardLicense&) const = default;
};

struct Card {
  std::string title;
  // Front matter.
  CardLicense license = {};
  std::vector<std::string> languages = {};
  std::vector<std::string> base_models = {};  // ids on the Hub
  std::string base_model_relation = {};       // "merge", "quantized"; written where there are base models
  std::string library_name = {};
  std::string pipeline_tag = "text-generation";
  std::vector<std::string> tags = {};
  // Text.
  std::vector<CardText> intro = {};
  std::vector<CardList> models = {};
  std::vector<CardText> remarks = {};  // after the lists
  CardTable numbers = {.columns = {}};
  std::vector<CardSection> sections = {};  // between the numbers and the scores
  std::vector<CardScore> scores = {};
  std::string configuration = {};  // YAML; empty: none
  std::vector<CardSection> usage = {};
  std::vector<std::string> quantised = {};  // repositories
};

/// README.md, with a comment at its end by which card_state() knows it again.
std::string render_card(const Card& card);

/// Who wrote a README.md.
enum class CardState {
  ours,    // render_card(), and nobody has changed it
  edited,  // render_card(), and somebody else after it
  foreign,
};
CardState card_state(std::string_view readme);

/// A text in double quotes: the same string in YAML, JSON and Python.
std::string quoted_string(const std::string& text);
/// A text as one word of a shell, in one line.
std::string shell_word(const std::string& text);

}  // namespace moerge
