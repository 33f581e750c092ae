#include "moerge/moe/texts.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"
#include "moerge/testing/tiny_vocabulary.h"

namespace moerge {
namespace {

namespace fs = std::filesystem;

const Tokenizer& tokenizer() {
  static const Tokenizer made(testing::byte_level_tokenizer(testing::byte_level()).dump(), "<s>",
                              "tokenizer");
  return made;
}
constexpr int32_t kBos = 1;

std::string join(const std::vector<ChatMessage>& messages) {
  std::string out = "<s>";
  for (const ChatMessage& message : messages) out += fmt::format("[{}]{}", message.role, message.content);
  return out;
}

class Texts : public ::testing::Test {
 protected:
  std::vector<TokenSequence> read(const std::vector<std::string>& names, int64_t max_tokens = 1 << 30,
                                  uint64_t seed = 0, const ChatFormatter& chat = join) {
    std::vector<TextSource> sources;
    for (const std::string& name : names) sources.push_back({name, dir_ / name, "c.yaml:3:5", 3, 5});
    return read_texts(sources, {max_tokens, seed, "expert 2 (\"x\")", chat}, tokenizer());
  }

  // Every sequence as text, without the token in front.
  std::vector<std::string> shown(const std::vector<TokenSequence>& sequences) {
    std::vector<std::string> out;
    for (const TokenSequence& sequence : sequences) {
      EXPECT_EQ(sequence.front(), kBos);
      EXPECT_LE(std::ssize(sequence), kMaxSequence);
      out.push_back(tokenizer().decode(std::span(sequence).subspan(1)));
    }
    return out;
  }
  std::vector<std::string> texts(const std::string& name, const std::string& content) {
    dir_.write(name, content);
    return shown(read({name}));
  }

  std::string message_of(const std::string& name, ErrorKind kind) {
    try {
      read({name});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      std::string message = error.message();
      for (const std::string folder = (dir_ / "").string(); message.find(folder) != std::string::npos;)
        message.erase(message.find(folder), folder.size());
      return message;
    }
    return "no error";
  }
  std::string refused(const std::string& name, const std::string& content) {
    dir_.write(name, content);
    return message_of(name, ErrorKind::input);
  }

  testing::TempDir dir_;
};

using Strings = std::vector<std::string>;

int64_t count(const std::vector<TokenSequence>& sequences) {
  int64_t tokens = 0;
  for (const TokenSequence& sequence : sequences) tokens += std::ssize(sequence);
  return tokens;
}

// Lines "line 0000012", 13 bytes each.
std::string lines(int from, int to) {
  std::string out;
  for (int i = from; i < to; i++) out += fmt::format("line {:07}\n", i);
  return out;
}

std::map<std::string, int> count_lines(const Strings& pieces) {
  std::map<std::string, int> counts;
  for (const std::string& text : pieces)
    for (size_t at = text.find("line "); at != std::string::npos; at = text.find("line ", at + 1))
      if (at + 12 <= text.size()) counts[text.substr(at, 12)]++;
  return counts;
}

TEST_F(Texts, PlainFilesAreOneDocument) {
  EXPECT_EQ(texts("a.txt", "abc\n\nb"), Strings{"abc\n\nb"});
  EXPECT_EQ(texts("b.TXT",
                  "\xef\xbb\xbf"
                  "ab\r\nc\rb\r\n"),
            Strings{"ab\nc\rb\n"});
  EXPECT_EQ(texts("c.txt", "<s>ab"), Strings{"ab"});
}

TEST_F(Texts, LongDocumentsBecomeSequences) {
  const Strings found = texts("a.txt", std::string(1500, 'b'));
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0], std::string(511, 'b'));
  EXPECT_EQ(found[1], std::string(511, 'b'));
  EXPECT_EQ(found[2], std::string(1500 - 1022, 'b'));
}

TEST_F(Texts, ShortRestsAreDroppedAndShortDocumentsKept) {
  EXPECT_EQ(texts("a.txt", std::string(511 + 6, 'b')), Strings{std::string(511, 'b')});
  EXPECT_EQ(texts("a.txt", std::string(511 + 7, 'b')).size(), 2u);
  EXPECT_EQ(texts("a.txt", "b"), Strings{"b"});
}

TEST_F(Texts, AModelWithoutTheTokenInFront) {
  const Tokenizer bare(testing::byte_level_tokenizer(testing::byte_level()).dump(), {}, "tokenizer");
  dir_.write("a.txt", std::string(600, 'b'));
  const TextSource source = {"a.txt", dir_ / "a.txt", "c.yaml:1:1"};
  const auto found = read_texts(std::span(&source, 1), {1 << 20, 0, "x", join}, bare);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].size(), 512u);
  EXPECT_EQ(found[1].size(), 88u);
}

TEST_F(Texts, EveryLineIsReadOnce) {
  dir_.write("a.txt", lines(0, 4000));
  std::string rows;
  for (int i = 4000; i < 5000; i++) rows += fmt::format("{{\"text\": \"line {:07}\\n\"}}\n", i);
  // Rows of many slots, and one that is longer as text than as JSON.
  for (int i = 5; i < 8; i++) rows += Json{{"text", lines(i * 1000, i * 1000 + 1000)}}.dump() + "\n\n";
  rows += R"({"messages": [{"role": "a", "content": "x"}]})";
  dir_.write("b.jsonl", rows);
  const auto sequences = read({"a.txt", "b.jsonl"}, 1 << 30, 3,
                              [](const std::vector<ChatMessage>&) { return lines(8000, 9000); });
  const auto counts = count_lines(shown(sequences));
  // Windows of 512 tokens cut some lines in two.
  EXPECT_GT(counts.size(), 8500u);
  for (const auto& [line, times] : counts) EXPECT_EQ(times, 1) << line;
  int64_t tokens = 0;
  for (const std::string& text : shown(sequences)) tokens += std::ssize(text);
  EXPECT_GT(tokens, 9000 * 13 - 2000);
  EXPECT_LE(tokens, 9000 * 13);
}

TEST_F(Texts, ASampleIsSpreadOverTheWhole) {
  dir_.write("a.txt", lines(0, 100'000));
  std::string rows;
  for (int i = 0; i < 100'000; i++) rows += fmt::format("{{\"text\": \"line {:07}\"}}\n", i);
  dir_.write("b.jsonl", rows);
  for (const char* name : {"a.txt", "b.jsonl"}) {
    const auto sequences = read({name}, 20'000);
    EXPECT_GT(count(sequences), 20'000 - kMinSequence);
    EXPECT_LE(count(sequences), 20'000);
    std::array<int, 4> quarters = {};
    for (const auto& [line, times] : count_lines(shown(sequences)))
      quarters[static_cast<size_t>(std::stoi(line.substr(5)) / 25'000)] += times;
    for (const int lines_there : quarters) EXPECT_GT(lines_there, 100) << name;
    EXPECT_EQ(read({name}, 20'000), sequences);
    EXPECT_NE(read({name}, 20'000, 1), sequences);
  }
}

TEST_F(Texts, FilesCountByTheirSize) {
  dir_.write("a.txt", std::string(900'000, 'a'));
  dir_.write("b.txt", std::string(100'000, 'b'));
  std::map<char, int64_t> letters;
  for (const std::string& text : shown(read({"a.txt", "b.txt"}, 100'000)))
    letters[text.front()] += std::ssize(text);
  EXPECT_NEAR(static_cast<double>(letters['b']) / 100'000, 0.1, 0.03);
}

TEST_F(Texts, TheLastSequenceIsCut) {
  dir_.write("a.txt", std::string(5000, 'b'));
  for (const int64_t max_tokens : {1, 7, 100, 512, 515, 1000, 4000})
    EXPECT_EQ(count(read({"a.txt"}, max_tokens)), max_tokens == 515 ? 512 : max_tokens) << max_tokens;
}

TEST_F(Texts, CharactersStayWhole) {
  for (const size_t before : {2045, 2046, 2047, 2048}) {
    const Strings found = texts("a.txt", std::string(before, 'b') + "\xe2\x82\xac" + std::string(100, 'c'));
    const std::string end = (before == 2045 ? "" : "\xe2\x82\xac") + std::string(100, 'c');
    EXPECT_EQ(std::ranges::count(found, end), 1) << before;
  }
}

TEST_F(Texts, RowsOfEveryKind) {
  EXPECT_EQ(texts("a.jsonl",
                  "\xef\xbb\xbf{\"text\": \"ab\", \"meta\": {\"text\": 3}}\r\n  \r\n\n{\"text\": \"\"}\n"
                  "{\"content\": \"c\", \"text\": null}"),
            (Strings{"ab", "c"}));
  EXPECT_EQ(
      texts("a.jsonl",
            R"({"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": null}]})"),
      Strings{"[user]ab[assistant]"});
  EXPECT_EQ(
      texts("a.jsonl",
            R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "x"}]}]})"),
      Strings{"[user]a"});
  EXPECT_EQ(texts("a.jsonl",
                  R"({"conversations": [{"from": "human", "value": "b"}, {"from": "gpt", "value": "c"}, )"
                  R"({"from": "tool", "value": "a"}]})"),
            Strings{"[user]b[assistant]c[tool]a"});
}

TEST_F(Texts, MalformedRowsAreNamed) {
  const auto row = [&](const std::string& text) {
    return refused("a.jsonl", "{\"text\": \"ok\"}\n\n" + text + "\n");
  };
  EXPECT_EQ(row("{\"text\": }").find("a.jsonl:3: not valid JSON: parse error at column 10: "), 0u)
      << row("{\"text\": }");
  EXPECT_NE(row("{").find("(each line should be a whole JSON object)"), std::string::npos);
  EXPECT_EQ(row("[1]"), "a.jsonl:3: each line should be a JSON object, found array");
  EXPECT_EQ(row("\"x\""), "a.jsonl:3: each line should be a JSON object, found string");
  EXPECT_EQ(row("{\"text\": 3}"), "a.jsonl:3: \"text\" should be a string, found number");
  EXPECT_EQ(row("{\"prompt\": \"a\"}"),
            "a.jsonl:3: this row has no text: \"text\" or \"content\" (a string), \"messages\" (a list of "
            "{\"role\", \"content\"}) or \"conversations\" (a list of {\"from\", \"value\"}) is read");
  EXPECT_EQ(row("{\"messages\": \"a\"}"),
            "a.jsonl:3: \"messages\" should be a list of messages, found string");
  EXPECT_EQ(row("{\"messages\": [1]}"),
            "a.jsonl:3: a message of \"messages\" should be an object, found number");
  EXPECT_EQ(row("{\"messages\": [{\"content\": \"a\"}]}"),
            "a.jsonl:3: a message of \"messages\" has no \"role\"");
  EXPECT_EQ(row("{\"messages\": [{\"role\": \"a\", \"content\": {}}]}"),
            "a.jsonl:3: \"content\" should be a string, found object");
  EXPECT_EQ(row("{\"text\": " + std::string(100'000, '[')), "a.jsonl:3: JSON nested deeper than 64 levels");
  EXPECT_NE(row("{\"text\": \"\\ud800\"}").find("a.jsonl:3: not valid JSON"), std::string::npos);
}

TEST_F(Texts, AFailingTemplateNamesTheRow) {
  dir_.write("a.jsonl", "{\"messages\": [{\"role\": \"a\"}]}\n");
  try {
    read({"a.jsonl"}, 100, 0,
         [](const std::vector<ChatMessage>&) -> std::string { fail(ErrorKind::input, "no"); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.message(), (dir_ / "a.jsonl").string() + ":1: no");
  }
}

TEST_F(Texts, OtherEncodings) {
  EXPECT_EQ(refused("a.txt", "a\nb\xe9\n"), "a.txt: not UTF-8 (byte 0xE9 at line 2); save it as UTF-8");
  EXPECT_EQ(refused("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xe9\"}"),
            "a.jsonl: not UTF-8 (byte 0xE9 at line 2); save it as UTF-8");
  EXPECT_EQ(refused("a.txt", std::string("\xff\xfe"
                                         "a\0",
                                         4)),
            "a.txt: this is UTF-16; save it as UTF-8");
  EXPECT_EQ(refused("a.txt", "\xfe\xff"), "a.txt: this is UTF-16; save it as UTF-8");
  EXPECT_EQ(refused("a.txt", std::string("\xff\xfe\0\0a\0\0\0", 8)),
            "a.txt: this is UTF-32; save it as UTF-8");
  EXPECT_EQ(refused("a.txt", std::string("a\n\0b", 4)),
            "a.txt: a null character at line 2, so this is no text file");
}

TEST_F(Texts, NoText) {
  EXPECT_EQ(refused("a.txt", ""), "expert 2 (\"x\"): a.txt holds no text");
  EXPECT_EQ(refused("a.jsonl", "\n \r\n"), "expert 2 (\"x\"): a.jsonl holds no text");
  EXPECT_EQ(refused("a.jsonl", "{\"text\": \" \"}\n{\"messages\": []}\n"),
            "expert 2 (\"x\"): a.jsonl holds no text");
  EXPECT_EQ(refused("a.txt", "\xef\xbb\xbf"), "expert 2 (\"x\"): a.txt holds no text");
}

// A row that is hostile by its size ends quickly, and so does one of very many members.
TEST_F(Texts, LargeRows) {
  std::string members = "{";
  for (int i = 0; i < 300'000; i++) members += fmt::format("\"k{}\": {}, ", i, i);
  EXPECT_EQ(texts("a.jsonl", members + "\"text\": \"ab\"}\n"), Strings{"ab"});
  EXPECT_EQ(refused("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"" + std::string(17 << 20, 'a') + "\"}\n"),
            "a.jsonl:2: this line is longer than 16 MB; a .jsonl file has one document a line");
}

// Gigabytes (of a hole, which takes no room on the disk): only the sample is read.
TEST_F(Texts, LargeFilesAreNotReadWhole) {
  dir_.write("a.txt", "ab");
  fs::resize_file(dir_ / "a.txt", int64_t{4} << 30);
  EXPECT_NE(message_of("a.txt", ErrorKind::input).find("a.txt: a null character at line "),
            std::string::npos);
}

TEST_F(Texts, FoldersAreReadByName) {
  dir_.write("d/b.txt", "b");
  dir_.write("d/a/c.jsonl", "{\"text\": \"c\"}");
  dir_.write("d/a.txt", "a");
  dir_.write("d/empty.txt", "");
  dir_.write("d/.hidden/x.txt", "x");
  dir_.write("d/readme.md", "x");
  fs::create_directory_symlink(dir_ / "d", dir_ / "d/a/loop");
  fs::create_directory_symlink(dir_ / "d", dir_ / "link");
  for (const char* name : {"d", "link", "d/"}) {
    Strings found = shown(read({name}));
    std::ranges::sort(found);
    EXPECT_EQ(found, (Strings{"a", "b", "c"})) << name;
  }
}

TEST_F(Texts, WhatCannotBeRead) {
  dir_.write("none/a.parquet", "x");
  dir_.write("none/b.md", "x");
  dir_.write("none/LICENSE", "x");
  dir_.write("maths.txt", "x");
  fs::create_directory(dir_ / "empty");
  mkfifo((dir_ / "pipe.txt").c_str(), 0600);
  mkfifo((dir_ / "empty/pipe.txt").c_str(), 0600);
  for (const char* name : {"a.json", "a.csv", "a.jsonl.gz", "a.pdf", "a"}) dir_.write(name, "x");
  fs::create_symlink(dir_ / "loop.txt", dir_ / "loop.txt");
  const auto message = [&](const std::string& name, ErrorKind kind = ErrorKind::config) {
    return message_of(name, kind);
  };
  EXPECT_EQ(message("none"),
            "c.yaml:3:5: there is no .txt or .jsonl file in none; it holds files without an ending, .md, "
            ".parquet (.parquet: export it to .jsonl (Dataset.to_json of the datasets library, or pandas' "
            "to_json with orient=\"records\" and lines=True))");
  EXPECT_EQ(message("empty"), "c.yaml:3:5: there is no .txt or .jsonl file in empty; it holds no files");
  EXPECT_EQ(message("math.txt"), "c.yaml:3:5: there is no math.txt (did you mean \"maths.txt\"?)");
  EXPECT_EQ(message("nowhere/x.txt"), "c.yaml:3:5: there is no nowhere/x.txt");
  EXPECT_EQ(message("pipe.txt"), "c.yaml:3:5: pipe.txt is neither a file nor a folder");
  EXPECT_NE(message("a.json").find("a.json is none: write it as .jsonl, one JSON object a line"),
            std::string::npos);
  EXPECT_NE(message("a.csv").find("a.csv is none: export it to .jsonl"), std::string::npos);
  EXPECT_NE(message("a.jsonl.gz").find("is none: unpack it first"), std::string::npos);
  EXPECT_EQ(message("a.pdf"), "c.yaml:3:5: text is read from .txt and .jsonl files, and a.pdf is none");
  EXPECT_EQ(message("a"), "c.yaml:3:5: text is read from .txt and .jsonl files, and a is none");
  EXPECT_NE(message("loop.txt", ErrorKind::io).find("c.yaml:3:5: loop.txt: "), std::string::npos);
}

}  // namespace
}  // namespace moerge
