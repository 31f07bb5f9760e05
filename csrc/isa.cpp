// One table of inner loops. CMake compiles this file once for each instruction set, with ODESOLVE_ISA its name.
//
// Everything but the table has internal linkage, and no inline function of the standard library is used: a linker that
// merges copies could otherwise put AVX-512 code into the portable path.
#include "kernels.h"

#include "loops.h"
#include "random.h"

#define NAME_(isa) kernels_##isa
#define NAME(isa) NAME_(isa)
#define TEXT_(isa) #isa
#define TEXT(isa) TEXT_(isa)

namespace odesolve {
namespace {

template <class T>
constexpr Loops<T> loops_in() {
    return {{load<T, float>, load<T, double>, load<T, bf16>, load<T, f16>},
            {store<T, float>, store<T, double>, store<T, bf16>, store<T, f16>},
            combine<T>,
            error<T>,
            dot<T>,
            add<T>,
            advance<T>,
            reduced<T>};
}

}  // namespace

extern const Kernels NAME(ODESOLVE_ISA) = {TEXT(ODESOLVE_ISA), loops_in<float>(), loops_in<double>(),
                                           normals,            signs,             normals_of,
                                           signs_of};

}  // namespace odesolve
