#include "moerge/base/terminal_text.h"

#include <gtest/gtest.h>

#include "moerge/base/utf8.h"

namespace moerge {
namespace {

TEST(TerminalText, LeavesTextAlone) {
  const std::string text = "a\tb\nc é 漢 🙂 \xc2\xa0";
  EXPECT_EQ(terminal_text(text), text);
  EXPECT_EQ(terminal_text(""), "");
}

TEST(TerminalText, NothingControlsTheTerminal) {
  EXPECT_EQ(terminal_text("\033[31mred\033[0m"), "\\x1b[31mred\\x1b[0m");
  EXPECT_EQ(terminal_text("\033]0;title\a"), "\\x1b]0;title\\x07");
  EXPECT_EQ(terminal_text("over\rwrite\b\x7f"), "over\\x0dwrite\\x08\\x7f");
  EXPECT_EQ(terminal_text("\xc2\x9b[2J"), "\\x9b[2J");            // CSI as one character
  EXPECT_EQ(terminal_text("\x9b[2J"), "\xef\xbf\xbd[2J");         // and as one byte
  EXPECT_EQ(terminal_text("\xe2\x80\xae txt"), "\\u{202e} txt");  // right to left from here on
  EXPECT_EQ(terminal_text(std::string("\0x", 2)), "\\x00x");
  for (int code = 0; code < 0x20; code++) {
    const std::string shown = terminal_text(std::string(1, static_cast<char>(code)));
    EXPECT_EQ(shown.size(), code == '\n' || code == '\t' ? 1U : 4U) << code;
  }
}

TEST(TerminalText, WaitsForTheRestOfACharacter) {
  const std::string text = "é漢🙂 end";
  for (size_t cut = 0; cut <= text.size(); cut++) {
    TerminalText shown;
    const std::string first = shown.add(text.substr(0, cut));
    const std::string second = shown.add(text.substr(cut));
    EXPECT_TRUE(is_utf8(first)) << cut;
    EXPECT_EQ(first + second, text) << cut;
    EXPECT_EQ(shown.finish(), "") << cut;
  }
  TerminalText bytes;
  std::string out;
  for (const char c : text) out += bytes.add(std::string_view(&c, 1));
  EXPECT_EQ(out, text);
  EXPECT_EQ(bytes.finish(), "");
}

TEST(TerminalText, EscapesAcrossBorders) {
  TerminalText shown;
  EXPECT_EQ(shown.add("\xc2"), "");
  EXPECT_EQ(shown.add("\x9b[2J"), "\\x9b[2J");
}

TEST(TerminalText, ReplacesWhatIsNoText) {
  EXPECT_EQ(terminal_text("\xff"), "\xef\xbf\xbd");
  EXPECT_EQ(terminal_text("\xe6\xbc"), "\xef\xbf\xbd");                      // cut at the end
  EXPECT_EQ(terminal_text("\xe6x"), "\xef\xbf\xbdx");                        // cut before a letter
  EXPECT_EQ(terminal_text("\xc0\x9b"), "\xef\xbf\xbd\xef\xbf\xbd");          // an escape, longer than needed
  EXPECT_EQ(terminal_text("\xed\xa0\x80").find('\xed'), std::string::npos);  // a surrogate
  EXPECT_EQ(terminal_text("\xf0\033[0m").find('\033'), std::string::npos);
  for (int first = 0; first < 256; first++)
    for (int second = 0; second < 256; second++) {
      const std::string pair = {static_cast<char>(first), static_cast<char>(second)};
      EXPECT_TRUE(is_utf8(terminal_text(pair))) << first << " " << second;
    }
}

}  // namespace
}  // namespace moerge
