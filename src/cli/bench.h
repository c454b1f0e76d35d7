// The benchmarks of `polylora bench NAME`.
#pragma once

#include "cli/flag_set.h"

namespace polylora {

int run_bench_machine(const Arguments& arguments);
int run_bench_kernels(const Arguments& arguments);
int run_bench_grammars(const Arguments& arguments);
int run_bench_forward(const Arguments& arguments);
int run_bench_serve(const Arguments& arguments);
int run_bench_stress(const Arguments& arguments);
int run_bench_train(const Arguments& arguments);
int run_bench_perplexity(const Arguments& arguments);

}  // namespace polylora
