#include "cli/bench_serve_file.h"

#include <fmt/format.h>

#include <cmath>
#include <ctime>
#include <filesystem>

#include "base/file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string timestamp() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", &local);
  return text;
}

fs::path result_path(const BenchServeFlags& flags, const std::string& date) {
  if (!flags.result_filename.empty()) return fs::path(flags.result_dir) / flags.result_filename;
  const std::string concurrency =
      flags.max_concurrency > 0 ? fmt::format("-concurrency{}", flags.max_concurrency) : "";
  const std::string model = flags.model.substr(flags.model.rfind('/') + 1);
  const ArrivalOptions& arrivals = flags.arrivals;
  const std::string rate = arrivals.ramp_up == RampUp::kNone
                               ? python_number(arrivals.request_rate) + "qps"
                               : fmt::format("ramp-up-{}-{}qps-{}qps", ramp_up_name(arrivals.ramp_up),
                                             *flags.ramp_up_start_rps, *flags.ramp_up_end_rps);
  return fs::path(flags.result_dir) /
         fmt::format("{}-{}{}-{}-{}.json", flags.label, rate, concurrency, model, date);
}

/// JSON has no infinity.
Json number_or_inf(double value) {
  return std::isinf(value) ? Json("inf") : Json(value);
}

Json settings_json(const BenchServeFlags& flags, const std::string& date) {
  const ArrivalOptions& arrivals = flags.arrivals;
  Json json = {{"date", date},
               {"endpoint_type", flags.backend},
               {"backend", flags.backend},
               {"label", flags.label},
               {"model_id", flags.model},
               {"tokenizer_id", flags.tokenizer.empty() ? Json() : Json(flags.tokenizer)},
               {"num_prompts", flags.num_prompts}};
  for (const auto& [key, value] : parse_pairs("--metadata", flags.metadata)) json[key] = value;
  json["request_rate"] = number_or_inf(arrivals.request_rate);
  json["burstiness"] = number_or_inf(arrivals.burstiness);
  json["max_concurrency"] = flags.max_concurrency > 0 ? Json(flags.max_concurrency) : Json();
  if (arrivals.ramp_up != RampUp::kNone) {
    json["ramp_up_strategy"] = ramp_up_name(arrivals.ramp_up);
    json["ramp_up_start_rps"] = *flags.ramp_up_start_rps;
    json["ramp_up_end_rps"] = *flags.ramp_up_end_rps;
  }
  return json;
}

}  // namespace

std::string python_number(double value) {
  const std::string text = fmt::format("{}", value);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

const char* ramp_up_name(RampUp ramp_up) {
  return ramp_up == RampUp::kLinear ? "linear" : "exponential";
}

void save_bench_serve_result(const BenchServeFlags& flags, const Json& result) {
  const std::string date = timestamp();
  Json json = settings_json(flags, date);
  json.update(result);
  const fs::path path = result_path(flags, date);
  std::error_code failed;  // shows when the file is written
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), failed);
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (flags.append_result && fs::exists(path, failed)) {
    const std::string before = read_text_file(path);
    if (!before.empty()) text = before + (before.ends_with('\n') ? "" : "\n") + text;
  }
  write_file_atomic(path, text);
}

}  // namespace polylora
