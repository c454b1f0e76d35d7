// Builders of small files, good and damaged, for the reader tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"

namespace polylora::testing_files {

/// A folder of its own, removed with everything in it.
class TempFolder {
 public:
  TempFolder() {
    // Memory where there is some: thousands of mutated files are slow on a disk.
    const std::filesystem::path memory = "/dev/shm";
    const auto root = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
    std::string pattern = (root / "polylora-io-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr)
      throw std::runtime_error("no temporary folder in " + root.string());
    path_ = pattern;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view content) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
    return file;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename T>
std::string raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// A safetensors file around any header text.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return raw(static_cast<uint64_t>(header.size())) + header + data;
}

/// f32 tensors that own their values, writable with write_safetensors.
class TensorSet {
 public:
  TensorSet& add(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    values_[name] = std::move(values);
    shapes_[name] = std::move(shape);
    return *this;
  }
  TensorSet& add_constant(const std::string& name, int64_t rows, int64_t cols, float value = 0.5f) {
    return add(name, {rows, cols}, std::vector<float>(static_cast<size_t>(rows * cols), value));
  }
  TensorSet& add_vector(const std::string& name, int64_t length, float value = 0.5f) {
    return add(name, {length}, std::vector<float>(static_cast<size_t>(length), value));
  }
  std::map<std::string, TensorView> views() const {
    std::map<std::string, TensorView> views;
    for (const auto& [name, values] : values_)
      views[name] = {DType::kF32, shapes_.at(name), std::as_bytes(std::span(values))};
    return views;
  }
  void write(const std::filesystem::path& path) const { write_safetensors(path, views()); }

 private:
  std::map<std::string, std::vector<float>> values_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

/// Assembles GGUF v3 files field by field.
class GgufBuilder {
 public:
  GgufBuilder& text(const std::string& key, const std::string& value) { return add(key, 8, string(value)); }
  GgufBuilder& u32(const std::string& key, uint32_t value) { return add(key, 4, raw(value)); }
  GgufBuilder& f32(const std::string& key, float value) { return add(key, 6, raw(value)); }
  GgufBuilder& boolean(const std::string& key, bool value) { return add(key, 7, raw(value)); }
  GgufBuilder& texts(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = raw(uint32_t{8}) + raw(static_cast<uint64_t>(values.size()));
    for (const std::string& value : values) bytes += string(value);
    return add(key, 9, bytes);
  }
  GgufBuilder& i8s(const std::string& key, const std::vector<int8_t>& values) {
    std::string bytes = raw(uint32_t{1}) + raw(static_cast<uint64_t>(values.size()));
    for (const int8_t value : values) bytes += raw(value);
    return add(key, 9, bytes);
  }
  GgufBuilder& i32s(const std::string& key, const std::vector<int32_t>& values) {
    std::string bytes = raw(uint32_t{5}) + raw(static_cast<uint64_t>(values.size()));
    for (const int32_t value : values) bytes += raw(value);
    return add(key, 9, bytes);
  }
  GgufBuilder& f32s(const std::string& key, const std::vector<float>& values) {
    std::string bytes = raw(uint32_t{6}) + raw(static_cast<uint64_t>(values.size()));
    for (const float value : values) bytes += raw(value);
    return add(key, 9, bytes);
  }
  /// `shape` outermost first; `type` is ggml's number (0 = F32).
  GgufBuilder& tensor(const std::string& name, std::vector<int64_t> shape, uint32_t type,
                      const std::string& bytes) {
    infos_ += string(name) + raw(static_cast<uint32_t>(shape.size()));
    for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent)
      infos_ += raw(static_cast<uint64_t>(*extent));
    infos_ += raw(type) + raw(static_cast<uint64_t>(data_.size()));
    data_ += bytes;
    pad(data_);
    ++tensors_;
    return *this;
  }
  GgufBuilder& tensor(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    return tensor(name, std::move(shape), 0,
                  {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  std::string bytes() const {
    std::string file = "GGUF" + raw(uint32_t{3}) + raw(tensors_) + raw(values_) + metadata_ + infos_;
    pad(file);
    return file + data_;
  }

 private:
  static std::string string(const std::string& value) {
    return raw(static_cast<uint64_t>(value.size())) + value;
  }
  static void pad(std::string& bytes) { bytes.append((32 - bytes.size() % 32) % 32, '\0'); }
  GgufBuilder& add(const std::string& key, uint32_t type, const std::string& value) {
    metadata_ += string(key) + raw(type) + value;
    ++values_;
    return *this;
  }

  std::string metadata_, infos_, data_;
  uint64_t values_ = 0, tensors_ = 0;
};

/// Expects an Error whose code is `code` and whose text has every one of `parts`.
inline void expect_error(ErrorCode code, const std::vector<std::string>& parts,
                         const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error was thrown; expected " << testing::PrintToString(parts);
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const std::string& part : parts) EXPECT_THAT(error.what(), testing::HasSubstr(part));
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << "one line: " << error.what();
  }
}

/// Reads `rounds` damaged copies of `original`: flipped bits, overwritten bytes, cut and grown files. Each
/// must be read or refused with an Error; anything else (a crash, another exception) fails the test.
inline void survive_mutations(const std::string& original, int rounds,
                              const std::function<void(const std::string&)>& read) {
  std::mt19937 random(20241124);
  const auto below = [&](size_t limit) {
    return std::uniform_int_distribution<size_t>(0, limit - 1)(random);
  };
  int read_well = 0;
  for (int round = 0; round < rounds; ++round) {
    std::string copy = original;
    const size_t edits = 1 + below(4);
    for (size_t edit = 0; edit < edits && !copy.empty(); ++edit) {
      const size_t at = below(std::min<size_t>(copy.size(), below(2) == 0 ? 64 : copy.size()));
      switch (below(5)) {
        case 0:
          copy[at] = static_cast<char>(copy[at] ^ (1 << below(8)));
          break;
        case 1:
          copy[at] = static_cast<char>(below(256));
          break;
        case 2:
          copy.resize(at);
          break;
        case 3:
          copy.insert(at, std::string(1 + below(16), static_cast<char>(0xff)));
          break;
        default:
          copy.replace(at, 8, raw(uint64_t{0} - below(3)), 0, std::min<size_t>(8, copy.size() - at));
          break;
      }
    }
    try {
      read(copy);
      ++read_well;
    } catch (const Error&) {
    }
  }
  EXPECT_LT(read_well, rounds) << "the mutations never hit anything that is checked";
}

}  // namespace polylora::testing_files
