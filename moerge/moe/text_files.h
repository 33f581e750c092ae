#pragma once
// Which files the text of an expert lies in: what "data" names, folders taken apart.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace moerge {

/// A path that a configuration names.
struct TextSource {
  std::string written;         // as it stands there
  std::filesystem::path path;  // what is relative made relative to the configuration's folder
  std::string place;           // "FILE:LINE:COLUMN"
  int line = 0, column = 0;    // of the same

  bool operator==(const TextSource& other) const { return path == other.path; }
};

enum class TextFormat {
  plain,  // .txt: a document
  rows,   // .jsonl: a document a line
};

struct TextFile {
  std::filesystem::path path;
  TextFormat format;
  int64_t bytes;
  bool named;  // by the configuration, not found in a folder
};

/// The last part of a source's path.
std::string public_name(const TextSource& source);

/// The files in the order of the sources; those of a folder and its subfolders (links to folders are not
/// followed, hidden names passed over) sorted by name. Throws config for what is missing, special, of another
/// kind, and for a folder without text.
std::vector<TextFile> find_text_files(std::span<const TextSource> sources);

}  // namespace moerge
