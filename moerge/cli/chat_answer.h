#pragma once
// One answer of a talk: asked for, shown while it comes, and what is to be said of it afterwards.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/base/terminal_text.h"
#include "moerge/cli/chat_signals.h"
#include "moerge/serve/expert_shares.h"
#include "moerge/serve/inference.h"

namespace moerge {

/// How a talk looks.
struct ChatLook {
  bool answer_colour = false, note_colour = false;  // on standard output, on standard error
  bool safe_answer = false;  // standard output is read by a terminal, which strangers' text must not control
  bool silent = false;       // no answer and no notes while it comes
  bool quiet = false;        // the answer and warnings alone
};

struct Answered {
  std::string text, reasoning;
  int64_t tokens = 0, cached_tokens = 0;    // cached: of the prompt, known from before
  std::optional<int64_t> prompt_tokens;     // unknown of an answer that was stopped
  std::optional<double> rate, prompt_rate;  // tokens per second
  std::string finish_reason;                // "stop", "length", "interrupted", or empty
  std::optional<Json> error;
  std::vector<TokenRouting> routing;
};

/// How the experts shared it.
ExpertShares shares_of(const Answered& answered, const InferenceInfo& info);

/// Shows text as it comes, in the colours of the experts where there are any.
class AnswerView {
 public:
  /// `experts`: 0 without routing.
  AnswerView(const ChatLook& look, int64_t experts);

  void add(const AnswerPiece& piece);
  void finish();
  /// The answer with the number of the leading expert before each stretch of text: "[2]The [0]answer".
  std::string numbered() const;

 private:
  struct Part {
    std::string text;
    size_t first, end;  // its tokens
  };
  void show(std::string_view text);
  void show_routed(bool all);
  int64_t leader(const Part& part) const;

  const ChatLook& look_;
  int64_t experts_;
  TerminalText answer_, thought_;
  std::vector<Part> parts_;
  std::vector<TokenRouting> routing_;  // by token
  size_t shown_ = 0;                   // parts
  int64_t colour_ = -1;                // of what was shown last
  bool reasons_ = false, answers_ = false, line_open_ = false;
};

/// A line on stderr, dim where it has colours.
void print_note(const ChatLook& look, std::string_view text);

/// Asks and shows. ctrl-C ends the answer: "interrupted".
Answered ask(Inference& inference, const Json& messages, bool routing, const ChatLook& look,
             ChatSignals& signals);

/// "prompt: 31 tokens, 512/s; answer: 9 tokens, 40.1/s", and why it was cut off. `longest`: -n, or -1.
std::string answer_note(const Answered& answered, const InferenceInfo& info, int64_t longest);
/// An error of the OpenAI API in a sentence with what to do.
std::string error_text(const Json& error);
bool is_too_long(const Json& error);

}  // namespace moerge
