// The result file of `bench serve`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cli/bench_serve_flags.h"

namespace polylora {

/// "inf", "4.0", "0.5": as Python writes numbers, which vLLM's names and lines have.
std::string python_number(double value);

/// "linear", "exponential".
const char* ramp_up_name(RampUp ramp_up);

/// Writes, or appends as one more line, what was asked for and `result`, under the name that the flags say.
/// Throws kIo.
void save_bench_serve_result(const BenchServeFlags& flags, const nlohmann::ordered_json& result);

}  // namespace polylora
