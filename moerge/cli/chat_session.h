#pragma once
// A talk at the terminal: what is typed is a message or a command.

#include <optional>

#include "moerge/base/progress.h"
#include "moerge/cli/chat_answer.h"
#include "moerge/cli/chat_input.h"
#include "moerge/cli/chat_talk.h"

namespace moerge {

struct ChatOptions {
  ChatLook look;
  bool routing = false;     // show which expert has each token; only of mixtures
  int64_t longest = -1;     // -n
  bool fixed_seed = false;  // -s was given
  int terminal = -1;        // a descriptor to draw the input line on; -1: the input is no terminal
};

class ChatSession {
 public:
  ChatSession(Inference& inference, const ChatOptions& options, Talk talk, ChatSignals& signals,
              Reporter& reporter);

  /// Until the user leaves. The program's exit code.
  int run();

 private:
  struct ChatCommand;
  static const ChatCommand kCommands[];

  void command(const std::string& line);
  void answer(std::optional<std::string> replaced = std::nullopt);
  void answer_again();
  void help();
  void set_system(const std::string& text);
  void save(const std::string& file);
  void load(const std::string& file);
  void routing();

  Inference& inference_;
  const ChatOptions& options_;
  Talk talk_;
  ChatSignals& signals_;
  Reporter& reporter_;
  MessageInput input_;
  ExpertShares shares_;  // of all answers since the last /reset
  bool leaving_ = false;
};

}  // namespace moerge
