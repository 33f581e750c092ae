#pragma once
// Flags that say how a mixture is planned and run, of every command that has them.

#include <CLI/CLI.hpp>
#include <string>

#include "moerge/cli/moe_source.h"

namespace moerge {

/// --allow-crimes, --i-understand-this-is-not-useful-without-training, --random-seed.
void add_build_flags(CLI::App& app, SourceOptions& options, const std::string& group);

/// --remote.
void add_remote_flag(CLI::App& app, SourceOptions& options);

/// --device, --load-in-4bit, --load-in-8bit; `what` is computed there.
void add_device_flags(CLI::App& app, SourceOptions& options, const std::string& what);

/// Throws usage for flags that exclude each other.
void check_device_flags(const SourceOptions& options);

}  // namespace moerge
