#include "moerge/base/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "moerge/base/error.h"

namespace moerge {
namespace {

std::atomic<int> signals{0}, keepers{0};

extern "C" void on_signal(int number) {
  const int count = signals.fetch_add(1) + 1;
  if (count < (keepers.load() > 0 ? 3 : 2)) return;
  signal(number, SIG_DFL);
  raise(number);  // delivered when this handler returns
}

// Read by a signal handler: no locks, nothing that is freed. `begin` is set last and cleared first.
struct Mapping {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0};
  uintptr_t end = 0;
  std::array<char, 512> file = {};
};
std::array<Mapping, 4096> mappings;

void write_error(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

extern "C" void on_bus_error(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const char* file = "a model file";
  for (const Mapping& mapping : mappings) {
    const uintptr_t begin = mapping.begin.load();
    if (begin != 0 && begin <= address && address < mapping.end) file = mapping.file.data();
  }
  write_error("moerge: ");
  write_error(file);
  write_error(" became shorter while it was read, or its disk failed\n");
  _exit(1);
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a reader of our messages that goes away must not end a build
  struct sigaction bus = {};
  bus.sa_sigaction = on_bus_error;
  bus.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &bus, nullptr);
}

void check_interrupted() {
  if (signals.load(std::memory_order_relaxed) > 0) fail(ErrorKind::interrupted, "interrupted");
}

bool is_aborted() { return signals.load(std::memory_order_relaxed) > 1; }

void check_aborted() {
  if (is_aborted()) fail(ErrorKind::interrupted, "interrupted");
}

KeepsWork::KeepsWork() { keepers.fetch_add(1); }
KeepsWork::~KeepsWork() { keepers.fetch_sub(1); }

NamedMapping::NamedMapping(const void* data, size_t size, const std::string& file) : slot_(-1) {
  if (size == 0) return;
  for (size_t i = 0; i < mappings.size(); i++) {
    Mapping& mapping = mappings[i];
    if (mapping.taken.exchange(true)) continue;
    file.copy(mapping.file.data(), mapping.file.size() - 1);
    mapping.file[std::min(file.size(), mapping.file.size() - 1)] = '\0';
    mapping.end = reinterpret_cast<uintptr_t>(data) + size;
    mapping.begin.store(reinterpret_cast<uintptr_t>(data));
    slot_ = static_cast<int>(i);
    return;
  }
}

NamedMapping::~NamedMapping() {
  if (slot_ < 0) return;
  Mapping& mapping = mappings[static_cast<size_t>(slot_)];
  mapping.begin.store(0);
  mapping.taken.store(false);
}

}  // namespace moerge
