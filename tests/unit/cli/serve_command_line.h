// Command lines of `serve`, parsed as the verb parses them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "cli/serve_flags.h"

namespace polylora::testing {

inline ServeFlags parse_serve(const Arguments& arguments) {
  ServeFlags values;
  FlagSet flags("serve", "test");
  add_serve_flags(flags, values);
  EXPECT_TRUE(flags.parse(arguments));
  values.resolve();
  return values;
}

/// The message; "accepted" when there is none.
inline std::string serve_refusal(const Arguments& arguments) {
  try {
    parse_serve(arguments);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

/// A file for --config that is removed with the object.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) : path_(::testing::TempDir() + "polylora_flags_test.yaml") {
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  ConfigFile(const ConfigFile&) = delete;
  ConfigFile& operator=(const ConfigFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

}  // namespace polylora::testing
