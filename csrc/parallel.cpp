#include "parallel.h"

#include <dlfcn.h>

#include <new>

namespace odesolve {
namespace {

using TorchParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Part part, void* context);
TorchParallelFor torch_parallel_for;

}  // namespace

void bind_threads(const char* libtorch) {
    void* library = dlopen(libtorch, RTLD_LAZY | RTLD_NOLOAD);
    torch_parallel_for = library ? reinterpret_cast<TorchParallelFor>(dlsym(library, "torch_parallel_for")) : nullptr;
}

void parallel(int64_t count, int64_t grain, Part part, void* context) {
    if (count > grain && torch_parallel_for) {
        // The one thing that can fail in a part is memory for its buffers.
        if (torch_parallel_for(0, count, grain, part, context) != 0) throw std::bad_alloc();
    } else if (count > 0) {
        part(0, count, context);
    }
}

}  // namespace odesolve
