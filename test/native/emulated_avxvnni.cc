// The level avxvnni with its one instruction replaced by its definition, for machines that lack it: the other code of
// the level is what the library has. Compiled for AVX2 (CMakeLists.txt).

#define QWEN3_EMULATED_AVXVNNI
#define kernels_avxvnni emulated_avxvnni
#include "cpu/kernels_avxvnni.cc"
