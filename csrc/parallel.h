// Work on torch's own threads. A second pool would fight with torch's, whose idle workers spin.
#pragma once

#include <cstdint>

namespace odesolve {

using Part = void (*)(int64_t begin, int64_t end, void* context);

// Finds torch_parallel_for in a library that is loaded; without it everything runs on the caller's thread.
void bind_threads(const char* libtorch);
void parallel(int64_t count, int64_t grain, Part part, void* context);

// Calls body(begin, end) on parts of [0, count), each at least `grain` long.
template <class Body>
void parallel_for(int64_t count, int64_t grain, Body&& body) {
    parallel(count, grain, [](int64_t begin, int64_t end, void* b) { (*static_cast<Body*>(b))(begin, end); }, &body);
}

}  // namespace odesolve
