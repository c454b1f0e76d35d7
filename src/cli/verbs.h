// What `polylora VERB` can do; each verb is a file of its own.
#pragma once

#include "cli/flag_set.h"

namespace polylora {

/// Each takes the arguments after the verb, throws Error for what went wrong and returns the exit status.
int run_train(const Arguments& arguments);
int run_serve(const Arguments& arguments);
int run_chat(const Arguments& arguments);
int run_export(const Arguments& arguments);
int run_verify(const Arguments& arguments);
int run_bench(const Arguments& arguments);
int run_version(const Arguments& arguments);

}  // namespace polylora
