// Runs every file of the given folders through a target, as it is and with changes that are the same in every
// run: NAME_replay FOLDER...  A seed called "valid-..." must be taken, one called "bad-..." refused. A crash,
// a call of more than kSeconds and, without sanitizers, more than kMemory end it and leave the input behind.

#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <utility>

#include "tests/fuzz/target.h"

// Of both sanitizers, where they are there.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*)());

namespace {

namespace fs = std::filesystem;

const bool kSanitized = __sanitizer_set_death_callback != nullptr;
const int kSeconds = kSanitized ? 30 : 5;  // of CPU time
constexpr rlim_t kMemory = rlim_t{2} << 30;
constexpr size_t kChanges = 48;  // of each file

std::string input;      // at hand
std::string what = "";  // it is
char left_behind[256];

// Only what a signal handler may do.
void leave_input() {
  static bool once = false;
  if (std::exchange(once, true)) return;
  const auto say = [](std::string_view text) {
    [[maybe_unused]] auto n = write(2, text.data(), text.size());
  };
  say("\nThis happened with ");
  say(what);
  say("; the input is in ");
  say(left_behind);
  say("\n");
  if (FILE* file = fopen(left_behind, "wb")) {
    fwrite(input.data(), 1, input.size(), file);
    fclose(file);
  }
}

void on_signal(int number) {
  if (number == SIGPROF) [[maybe_unused]]
    auto n = write(2, "\na call takes too long", 22);
  leave_input();
  _exit(1);
}

void run(const std::string& name, std::string bytes) {
  input = std::move(bytes);
  what = name;
  const itimerval limit = {{0, 0}, {kSeconds, 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
  // A copy of its own size: the address sanitizer sees the first byte after it.
  const std::vector<uint8_t> exact(input.begin(), input.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

// Cut off, bits and bytes changed, a part removed, repeated, or put in from another file.
std::string changed(std::string text, const std::string& other, std::mt19937_64& random) {
  const auto below = [&](size_t bound) { return bound == 0 ? size_t{0} : random() % bound; };
  if (text.empty()) return other;
  const size_t at = below(text.size()), length = 1 + below(std::min<size_t>(text.size() - at, 64));
  switch (below(6)) {
    case 0:
      return text.substr(0, at);
    case 1:
      text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
      return text;
    case 2: {
      constexpr std::string_view kBytes("\0\xff\x80\x7f\"\\{}[],:-0\n9", 16);
      text[at] = kBytes[below(kBytes.size())];
      return text;
    }
    case 3:
      return text.erase(at, length);
    case 4:
      return text.insert(at, text.substr(at, length));
    default:
      return text.replace(at, length, other.substr(below(other.size()), length));
  }
}

std::string read(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<fs::path> files;
  for (int i = 1; i < argc; i++)
    for (const fs::directory_entry& entry : fs::directory_iterator(argv[i])) files.push_back(entry.path());
  if (files.empty()) {
    fprintf(stderr, "usage: %s FOLDER..., with inputs in it\n", argv[0]);
    return 2;
  }
  std::ranges::sort(files);
  snprintf(left_behind, sizeof(left_behind), "%s.failed", argv[0]);
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGPROF})
    if (!kSanitized || number == SIGPROF || number == SIGABRT) signal(number, on_signal);
  if (kSanitized) __sanitizer_set_death_callback(leave_input);
  if (!kSanitized) {
    const rlimit memory = {kMemory, kMemory};
    setrlimit(RLIMIT_DATA, &memory);
  }

  std::vector<std::string> texts;
  int wrong = 0;
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    run(name, texts.emplace_back(read(file)));
    const bool taken = moerge::fuzz::accepted;
    if ((name.starts_with("valid-") && !taken) || (name.starts_with("bad-") && taken)) {
      fprintf(stderr, "%s was %s\n", file.c_str(), taken ? "taken" : "refused");
      wrong++;
    }
  }
  for (size_t i = 0; i < files.size(); i++) {
    std::mt19937_64 random(i);
    for (size_t k = 0; k < kChanges; k++) {
      const std::string& other = texts[random() % texts.size()];
      run(files[i].filename().string() + ", change " + std::to_string(k), changed(texts[i], other, random));
    }
  }
  printf("%zu files, each with %zu changes\n", files.size(), kChanges);
  return wrong == 0 ? 0 : 1;
}
