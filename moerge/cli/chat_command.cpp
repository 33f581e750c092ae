// moerge chat MODEL: arguments, and the order in which things happen.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/base/utf8.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/chat_session.h"
#include "moerge/cli/command.h"
#include "moerge/cli/open_inference.h"
#include "moerge/serve/inference_meter.h"

namespace moerge {
namespace {

constexpr int64_t kMaxText = 64 << 20;

struct Arguments {
  std::string model, prompt, system, system_file, load, colour = "auto";
  bool routing = false, json = false, quiet = false;
  bool one_shot = false, has_system = false;
  InferenceFlags inference;
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("MODEL", a.model, kModelHelp)->required();
  const std::string talk = "The talk";
  app.add_option(
         "-p,--prompt", a.prompt,
         "one message: its answer goes to stdout, then the program ends; -: the message is what stdin "
         "has")
      ->group(talk);
  app.add_option("--system", a.system, "the system message")->group(talk);
  app.add_option("--system-file", a.system_file, "the system message from a file")->group(talk);
  app.add_option("--load", a.load, "go on with a talk that /save wrote")->group(talk);
  const std::string view = "What is shown";
  app.add_flag("--show-routing", a.routing,
               "of a mixture: the answer in the colours of the experts that have its tokens, and a table")
      ->group(view);
  app.add_option("--color", a.colour, "auto: on a terminal, unless NO_COLOR is set; always; never (auto)")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->group(view);
  app.add_flag("--json", a.json, "with --prompt: one JSON object instead of the text")->group(view);
  app.add_flag("-q,--quiet", a.quiet, "answers and warnings alone")->group(view);
  add_inference_flags(app, a.inference);
}

std::string read_stdin() {
  std::string text;
  char bytes[65536];
  for (size_t count; (count = std::fread(bytes, 1, sizeof bytes, stdin)) > 0;) {
    text.append(bytes, count);
    if (std::ssize(text) > kMaxText) fail(ErrorKind::input, "--prompt -: stdin has more than 64 MB");
  }
  return text;
}

std::string read_text(const std::string& flag, const std::string& file) {
  if (!std::filesystem::exists(file)) fail(ErrorKind::usage, "{} \"{}\": there is no such file", flag, file);
  std::string text = read_file(file, kMaxText);
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

void check_utf8(const std::string& flag, const std::string& text) {
  if (const std::optional<size_t> wrong = find_invalid_utf8(text))
    fail(ErrorKind::input, "{}: no UTF-8 text: byte {} is 0x{:02x}", flag, *wrong,
         static_cast<unsigned char>(text[*wrong]));
}

// Before the model is loaded, not after it.
Talk first_talk(Arguments& a) {
  if (a.json && !a.one_shot) fail(ErrorKind::usage, "--json goes with --prompt: it is for one answer");
  if (a.has_system && !a.system_file.empty())
    fail(ErrorKind::usage, "--system and --system-file exclude each other");
  Talk talk;
  if (!a.load.empty()) {
    try {
      talk = load_talk(a.load);
    } catch (const Error& error) {
      fail(error.kind(), "--load {}", error.message());
    }
  }
  if (a.has_system) {
    check_utf8("--system", a.system);
    talk.system = a.system;
  } else if (!a.system_file.empty()) {
    talk.system = read_text("--system-file", a.system_file);
    check_utf8("--system-file " + a.system_file, *talk.system);
  }
  if (!a.one_shot) return talk;
  if (a.prompt == "-") {
    a.prompt = read_stdin();
    if (a.prompt.ends_with('\n')) a.prompt.pop_back();
  }
  check_utf8("--prompt", a.prompt);
  if (a.prompt.find_first_not_of(" \t\r\n") == std::string::npos)
    fail(ErrorKind::usage, "--prompt: the message is empty");
  talk.say("user", a.prompt);
  return talk;
}

bool has_colour(const std::string& choice, int descriptor) {
  if (choice != "auto") return choice == "always";
  const char* no_colour = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return isatty(descriptor) == 1 && !(no_colour && *no_colour) &&
         !(terminal && std::string_view(terminal) == "dumb");
}

ChatOptions chat_options(const Arguments& a, const InferenceInfo& info) {
  ChatOptions options;
  options.look = {.answer_colour = a.routing && has_colour(a.colour, STDOUT_FILENO),
                  .note_colour = has_colour(a.colour, STDERR_FILENO),
                  .safe_answer = isatty(STDOUT_FILENO) == 1,
                  .silent = a.json,
                  .quiet = a.quiet};
  options.routing = a.routing && info.experts > 0;
  const std::vector<std::string> flags = all_llama_flags(a.inference);
  const std::string longest = flag_value(flags, {"-n", "--predict", "--n-predict"});
  options.longest = longest.empty() ? -1 : std::atoll(longest.c_str());
  const std::string seed = flag_value(flags, {"-s", "--seed"});
  options.fixed_seed = !seed.empty() && seed != "-1";
  if (isatty(STDIN_FILENO) == 1)
    for (const int descriptor : {STDERR_FILENO, STDOUT_FILENO})
      if (isatty(descriptor) == 1) options.terminal = descriptor;
  return options;
}

Json answer_json(const Answered& answered, const InferenceInfo& info, bool routing) {
  const auto number = [](const auto& value) { return value ? Json(*value) : Json(nullptr); };
  Json out = {{"text", answered.text},
              {"reasoning", answered.reasoning},
              {"tokens", answered.tokens},
              {"prompt_tokens", number(answered.prompt_tokens)},
              {"tokens_per_second", number(answered.rate)},
              {"prompt_tokens_per_second", number(answered.prompt_rate)},
              {"finish_reason", answered.finish_reason}};
  if (!routing) return out;
  const int64_t first = answered.routing.empty() ? 0 : answered.routing.front().position;
  out["routing"] = {{"experts", info.experts},
                    {"experts_per_token", info.experts_per_token},
                    {"shares", shares_of(answered, info).json()},
                    {"tokens", routing_json(answered.routing, first, info.experts_per_token)}};
  return out;
}

int answer_once(Inference& inference, const ChatOptions& options, const Talk& talk, ChatSignals& signals) {
  const ChatLook& look = options.look;
  const InferenceInfo& info = inference.info();
  const Answered answered = ask(inference, talk.all(), options.routing, look, signals);
  if (answered.error)
    fail(ErrorKind::input, "{}{}", error_text(*answered.error),
         is_too_long(*answered.error) ? "; a shorter message is needed, or a larger context: -c N" : "");
  if (look.silent) print_result(json_text(answer_json(answered, info, options.routing)));
  if (!look.silent && !look.quiet) print_note(look, answer_note(answered, info, options.longest));
  if (!look.silent && options.routing)
    std::fputs((shares_of(answered, info).table(look.note_colour) + "\n").c_str(), stderr);
  return answered.finish_reason == "interrupted" ? exit_code(ErrorKind::interrupted) : 0;
}

}  // namespace

int run_chat(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Talks with a model in the terminal. Answers come as they are made and go to stdout, everything else\n"
      "to stderr. The model's own chat template is used; a model without one goes on where your text ends.\n"
      "With --show-routing you see which expert of a mixture has each piece of the answer.\n\n"
      "examples:  moerge chat mixture.gguf --show-routing\n"
      "           moerge chat model.gguf --system 'Answer in one sentence.' --temp 0.3 -n 200\n"
      "           moerge chat model.gguf -p 'Write a haiku about rain.'\n"
      "           git diff | moerge chat model.gguf -p - --system 'Write a commit message.' > message.txt\n"
      "           moerge chat model.gguf --load talk.json\n\n"
      "In the talk: /help lists the commands; a line that ends in a backslash goes on in the next, and all\n"
      "between two lines of \"\"\" is one message; ctrl-C stops an answer, ctrl-D leaves.\n"
      "Flags after a lone -- go to llama.cpp as they are: moerge chat model.gguf -- --mirostat 2\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, split_llama_flags(arguments, a.inference), program)) return 0;
  a.one_shot = app.count("--prompt") > 0;
  a.has_system = app.count("--system") > 0;

  Reporter reporter(a.quiet ? Verbosity::quiet : Verbosity::normal);
  Talk talk = first_talk(a);
  const std::unique_ptr<Inference> inference = open_inference(a.model, a.inference, 1, reporter);
  const InferenceInfo& info = inference->info();
  if (a.routing && info.experts == 0)
    reporter.warning(fmt::format("{} has no experts, so --show-routing has nothing to show", info.name));
  const ChatOptions options = chat_options(a, info);
  ChatSignals signals(options.terminal >= 0 && !a.one_shot);
  if (a.one_shot) return answer_once(*inference, options, talk, signals);
  if (options.terminal >= 0) reporter.info("/help lists the commands, ctrl-C stops an answer, ctrl-D leaves");
  if (!talk.messages.empty()) reporter.info(fmt::format("goes on after {} messages", talk.messages.size()));
  return ChatSession(*inference, options, std::move(talk), signals, reporter).run();
}

}  // namespace moerge
