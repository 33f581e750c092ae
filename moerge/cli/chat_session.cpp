#include "moerge/cli/chat_session.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

// "~/talk.json", as a shell would have it.
std::filesystem::path home_path(const std::string& text) {
  const char* home = std::getenv("HOME");
  if (home && text.starts_with("~/")) return std::filesystem::path(home) / text.substr(2);
  return text;
}

}  // namespace

struct ChatSession::ChatCommand {
  std::string_view name, argument, help;
  void (*run)(ChatSession& session, const std::string& argument);
};

const ChatSession::ChatCommand ChatSession::kCommands[] = {
    {"/help", "", "this list", [](ChatSession& s, const std::string&) { s.help(); }},
    {"/system", " [TEXT]", "set the system message (\"\" removes it), or show it",
     [](ChatSession& s, const std::string& text) { s.set_system(text); }},
    {"/reset", "", "begin anew; the system message stays",
     [](ChatSession& s, const std::string&) {
       s.talk_.messages = Json::array();
       s.shares_.clear();
       s.reporter_.info("the talk begins anew");
     }},
    {"/regen", "", "answer the last message again",
     [](ChatSession& s, const std::string&) { s.answer_again(); }},
    {"/save", " FILE", "write the talk as JSON",
     [](ChatSession& s, const std::string& file) { s.save(file); }},
    {"/load", " FILE", "go on with a talk that was saved",
     [](ChatSession& s, const std::string& file) { s.load(file); }},
    {"/routing", "", "the experts' shares so far, and in each layer (with --show-routing)",
     [](ChatSession& s, const std::string&) { s.routing(); }},
    {"/exit", "", "leave; so do /quit and ctrl-D",
     [](ChatSession& s, const std::string&) { s.leaving_ = true; }},
    {"/quit", "", "", [](ChatSession& s, const std::string&) { s.leaving_ = true; }},
};

ChatSession::ChatSession(Inference& inference, const ChatOptions& options, Talk talk, ChatSignals& signals,
                         Reporter& reporter)
    : inference_(inference),
      options_(options),
      talk_(std::move(talk)),
      signals_(signals),
      reporter_(reporter),
      input_(signals, options.terminal, options.look.note_colour),
      shares_(inference.info().experts, inference.info().experts_per_token, inference.info().expert_names) {}

int ChatSession::run() {
  std::string message;
  while (!leaving_) {
    const InputEnd how = input_.next(message);
    if (how == InputEnd::end) break;
    if (how == InputEnd::interrupted) {
      if (signals_.ended() || message.empty()) return exit_code(ErrorKind::interrupted);
      signals_.stop_handled();  // it was for what was being written
      continue;
    }
    if (message.find_first_not_of(" \t\n") == std::string::npos) continue;
    if (!is_utf8(message)) {
      reporter_.warning("this message is no UTF-8 text, it is left out");
      continue;
    }
    if (input_.single_line() && message.starts_with('/') && !message.starts_with("//")) {
      try {
        command(message);
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::interrupted) throw;
        print_error_line(error.message());
      } catch (const std::filesystem::filesystem_error& error) {
        print_error_line(fmt::format("{}: {}", error.path1().string(), error.code().message()));
      }
    } else {
      talk_.say("user", message.starts_with("//") ? message.substr(1) : message);
      answer();
    }
    if (signals_.ended()) return exit_code(ErrorKind::interrupted);
    signals_.stop_handled();
  }
  return 0;
}

void ChatSession::command(const std::string& line) {
  const size_t space = std::min(line.find_first_of(" \t"), line.size());
  const std::string name = line.substr(0, space);
  const size_t begin = std::min(line.find_first_not_of(" \t", space), line.size());
  const std::string argument = line.substr(begin, line.find_last_not_of(" \t") + 1 - begin);
  std::vector<std::string_view> names;
  for (const ChatCommand& each : kCommands) {
    names.push_back(each.name);
    if (each.name != name) continue;
    if (each.argument.empty() && !argument.empty())
      return print_error_line(fmt::format("{} stands alone, found \"{}\" after it", name, argument));
    if (each.argument == " FILE" && argument.empty())
      return print_error_line(fmt::format("{} needs the name of a file: {} talk.json", name, name));
    return each.run(*this, argument);
  }
  const std::string close = nearest(name, names);
  print_error_line(
      fmt::format("there is no command {}{}; /help lists them, and a message that begins with a "
                  "slash is written with two",
                  name, close.empty() ? "" : fmt::format(" (did you mean {}?)", close)));
}

// The last message. `replaced`: the answer that comes back when there is no new one.
void ChatSession::answer(std::optional<std::string> replaced) {
  const ChatLook& look = options_.look;
  const Answered answered = ask(inference_, talk_.all(), options_.routing, look, signals_);
  const char* what_stays = "what was answered stays";
  if (!answered.text.empty()) {
    talk_.say("assistant", answered.text);
  } else if (replaced) {
    talk_.say("assistant", *replaced);
    what_stays = "the answer of before stays";
  } else if (answered.error || answered.finish_reason == "interrupted") {
    talk_.drop_last();
    what_stays = "the message is left out";
  } else {
    talk_.say("assistant", "");
  }
  if (answered.error) {
    const char* advice =
        is_too_long(*answered.error) ? "; /reset begins anew, or start with -c N for a larger context" : "";
    return print_error_line(fmt::format("{}{} ({})", error_text(*answered.error), advice, what_stays));
  }
  if (answered.text.empty()) {
    if (answered.finish_reason != "interrupted")
      reporter_.info("(an empty answer)");
    else if (!replaced)
      reporter_.info(fmt::format("nothing was answered yet: {}", what_stays));
  }
  if (!look.quiet) print_note(look, answer_note(answered, inference_.info(), options_.longest));
  if (!options_.routing) return;
  for (const TokenRouting& token : answered.routing) shares_.add(token);
  std::fputs((shares_of(answered, inference_.info()).table(look.note_colour) + "\n").c_str(), stderr);
}

void ChatSession::answer_again() {
  std::optional<std::string> replaced;
  if (talk_.last_is("assistant")) {
    replaced = talk_.messages.back()["content"].get<std::string>();
    talk_.drop_last();
  }
  if (!talk_.last_is("user")) {
    if (replaced) talk_.say("assistant", *replaced);
    return print_error_line("there is no message yet that could be answered again");
  }
  if (options_.fixed_seed) reporter_.info("the seed was given, so the same answer comes again");
  answer(std::move(replaced));
}

void ChatSession::help() {
  std::string text;
  for (const ChatCommand& each : kCommands)
    if (!each.help.empty())
      text += fmt::format("{:<15} {}\n", std::string(each.name) + std::string(each.argument), each.help);
  text +=
      "A line that ends in a backslash goes on in the next one; all between two lines of \"\"\" is one "
      "message.\n"
      "A message that begins with a slash is written with two. ctrl-C stops an answer, at an empty line it "
      "leaves.";
  print_error_line(text);
}

void ChatSession::set_system(const std::string& text) {
  if (text.empty()) {
    print_error_line(talk_.system ? "system message: " + terminal_text(*talk_.system) : "no system message");
    return;
  }
  if (text == "\"\"")
    talk_.system.reset();
  else
    talk_.system = text;
  reporter_.info(talk_.system ? "the system message is set" : "the system message is removed");
}

void ChatSession::save(const std::string& file) {
  save_talk(talk_, home_path(file));
  reporter_.info(fmt::format("{} messages are saved in {}", talk_.all().size(), file));
}

void ChatSession::load(const std::string& file) {
  talk_ = load_talk(home_path(file));
  shares_.clear();
  const std::string open = talk_.last_is("user") ? "; the last is not answered yet, /regen does it" : "";
  reporter_.info(fmt::format("{} messages are loaded from {}{}", talk_.all().size(), file, open));
}

void ChatSession::routing() {
  if (!options_.routing)
    return print_error_line(inference_.info().experts > 0
                                ? "routing is shown when the program is started with --show-routing"
                                : "this model has no experts");
  const bool colour = options_.look.note_colour;
  std::string text = shares_.table(colour) + "\n";
  if (shares_.tokens() > 0) text += shares_.layer_lines(colour) + "\n";
  std::fputs(text.c_str(), stderr);
}

}  // namespace moerge
