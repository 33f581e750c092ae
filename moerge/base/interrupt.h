#pragma once
// Signals that ask a run to end, and what a vanishing file does to memory that is mapped from it.

#include <cstddef>
#include <string>

namespace moerge {

/// SIGINT, SIGTERM and SIGHUP are noted (SIGPIPE is ignored); long loops ask for them below. The second of
/// them ends the process at once, unless a KeepsWork is there. SIGBUS (a mapped file became shorter, or its
/// disk failed) ends the process with a sentence that names the file.
void install_interrupt_handler();

/// Throws ErrorKind::interrupted after the first signal.
void check_interrupted();
/// The same after the second: for work that is finished on the first, because what it writes is kept.
void check_aborted();
bool is_aborted();

/// While one is there, a second signal is noted too, and only the third ends the process at once.
class KeepsWork {
 public:
  KeepsWork();
  KeepsWork(const KeepsWork&) = delete;
  KeepsWork& operator=(const KeepsWork&) = delete;
  ~KeepsWork();
};

/// Memory that SIGBUS is explained for. Of more than a few thousand files the rest have no name in the
/// message.
class NamedMapping {
 public:
  NamedMapping(const void* data, size_t size, const std::string& file);
  NamedMapping(const NamedMapping&) = delete;
  NamedMapping& operator=(const NamedMapping&) = delete;
  ~NamedMapping();

 private:
  int slot_;
};

}  // namespace moerge
